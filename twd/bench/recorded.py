"""A draft model whose drafts for known texts were recorded, and are replayed at the measured speed.

On a machine with few cores this simulates a drafter with its own cores. After a wrong draft it continues as after the
right token: drafts after a wrong one are dropped anyway.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from twd.decoding.window import Logits, Report, Sampler, VerifyResult, Window
from twd.drafter.draft import Guess
from twd.drafter.native import judge
from twd.engine.loading import NativeModel
from twd.wire.failures import FailureCode, TwdError

Cost = Callable[[int], float]
"""rows in one pass -> milliseconds"""
_UNKNOWN = Guess(0, 0.0)
"""For positions behind the end of the recording."""


@dataclass(frozen=True, slots=True)
class RecordedText:
    """A text, and the model's draft for each of its positions after the prompt."""

    tokens: list[int]
    guesses: dict[int, Guess]


@dataclass(frozen=True, slots=True)
class Recording:
    """All recorded texts."""

    texts: list[RecordedText]
    cost: Cost
    ctx_size: int


def write_down(native: NativeModel, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> Recording:
    """Record the drafts of a model for known texts."""
    told = [_read(native, list(prompt), list(text)) for prompt, text in zip(prompts, texts, strict=True)]
    return Recording(told, native.cost.ms, native.target.ctx_size)


def _read(native: NativeModel, prompt: list[int], text: list[int]) -> RecordedText:
    target, teacher = native.target, _Teacher([*prompt, *text])
    slot, cached = target.open(prompt, teacher)
    at, known = min(cached, len(prompt) - 1), len(prompt)
    while at < len(teacher.tokens) - 1:
        end = min(known + target.window_max - 1, len(teacher.tokens))
        target.submit([Window(slot, 0, at, tuple(teacher.tokens[at:end]), committed=known - at)])
        (verdict,) = target.collect()
        if verdict.failure is not None:
            raise TwdError(verdict.failure.code, verdict.failure.message)
        at, known = end, end + 1
    target.close(slot)
    return RecordedText(teacher.tokens, teacher.guesses)


@dataclass(slots=True)
class _Teacher:
    """Records the model's choice, and continues with the known text."""

    tokens: list[int]
    guesses: dict[int, Guess] = field(default_factory=dict)

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """Return the next token of the known text."""
        place = len(history)
        own = int(logits.argmax())
        self.guesses[place] = judge(logits, own, False)
        return self.tokens[place] if place < len(self.tokens) else own


def confidence(logits: Logits, token: int, with_other: bool) -> Guess:
    """Return the recorded confidence; these are the only logits of `ReplayedModel`."""
    return Guess(token, float(logits[0]))


class ReplayedModel:
    """Replays a draft model without computing; one session at a time."""

    in_flight = 1
    n_slots = 1
    window_max = 64
    trees = False
    can_rollback = True

    def __init__(self, recording: Recording, sleep: Callable[[float], None] = time.sleep) -> None:
        self.ctx_size = recording.ctx_size
        self._recording, self._sleep = recording, sleep
        self._text: RecordedText | None = None
        self._report: Report | None = None
        self._pending: list[Window] = []

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """Never used: the drafts are chosen already."""
        raise TwdError(FailureCode.INTERNAL, "a recorded guess is not picked again")

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        """Open a session with a known text."""
        known = (text for text in self._recording.texts if text.tokens[: len(tokens)] == list(tokens))
        self._text, self._report = next(known, None), report
        if self._text is None:
            raise TwdError(FailureCode.UNSUPPORTED, "of this text no guesses were written down")
        return 0, 0

    def submit(self, windows: Sequence[Window]) -> None:
        """Submit windows."""
        self._pending += windows

    def collect(self) -> list[VerifyResult]:
        """Wait as long as the pass took, and return the recorded results."""
        pending, self._pending = self._pending, []
        self._sleep(sum(self._recording.cost(len(window.tokens)) for window in pending) / 1000)
        return [self._answer(window) for window in pending]

    def _answer(self, window: Window) -> VerifyResult:
        verdict = VerifyResult(window.slot, window.epoch, window.at, path=list(range(len(window.tokens))))
        if window.picks and self._text is not None and self._report is not None:
            guess = self._text.guesses.get(window.at + len(window.tokens), _UNKNOWN)
            verdict.tokens.append(guess.token)
            verdict.logprobs.append(self._report(np.array([guess.confidence], np.float32), guess.token))
        return verdict

    def close(self, slot: int) -> None:
        """Close the session."""
        self._text = None
        self._pending.clear()

    def shutdown(self) -> None:
        """Does nothing."""
