"""The toy as a target in this process, for a real speculator to drive."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.backends.fakes.toy import CONTROL, TOY
from twd.decoding.cost import CostCurve
from twd.decoding.window import Report, Sampler, Target, VerifyResult, Window, verify_window
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.session import PreparedRequest
from twd.wire.base import ModelId, SessionId
from twd.wire.draft import DeviceKind
from twd.wire.job import JobSubmitted
from twd.wire.model import CostPoint, Exactness, ModelFacts, VocabFingerprint

END = TOY.control["<|im_end|>"]


class GreedyPicker:
    """Argmax."""

    def pick(self, logits: object, history: Sequence[int]) -> int:
        return int(np.argmax(logits))  # type: ignore[call-overload]


@dataclass
class ToyTarget:
    """Checks chains against the toy's own choice."""

    in_flight: int = 1
    n_slots: int = 4
    ctx_size: int = TOY.context
    window_max: int = 64
    trees: bool = False
    can_rollback: bool = True
    rows: list[int] = field(default_factory=list)
    _slots: dict[int, tuple[list[int], Sampler, Report | None]] = field(default_factory=dict)
    _pending: list[Window] = field(default_factory=list)

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        slot = next(slot for slot in range(self.n_slots) if slot not in self._slots)
        self._slots[slot] = ([], sampler, report)
        return slot, 0

    def submit(self, windows: Sequence[Window]) -> None:
        self._pending += windows

    def collect(self) -> list[VerifyResult]:
        pending, self._pending = self._pending, []
        return [self._judge(window) for window in pending if window.slot in self._slots]

    def _judge(self, window: Window) -> VerifyResult:
        tokens, sampler, report = self._slots[window.slot]
        del tokens[window.at :]
        verdict = VerifyResult(window.slot, window.epoch, window.at)
        self.rows.append(len(window.tokens))
        tokens += window.tokens[: window.committed] if window.picks else window.tokens
        if not window.picks:
            return verdict
        before = tokens[: window.at]

        def logits(node: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
            row = np.zeros(TOY.size, dtype=np.float32)
            row[TOY.next([*before, *window.tokens[: node + 1]])] = 1.0
            return row

        verify_window(window, verdict, logits, tokens, sampler, report, frozenset({END}))
        return verdict

    def close(self, slot: int) -> None:
        self._slots.pop(slot, None)

    def shutdown(self) -> None:
        self._slots.clear()


@dataclass
class ToyModel:
    """The toy as the speculator's service wants a model."""

    target: Target
    vocab: str = "toy"
    ngram: bool = False
    load_ms: int = 0
    tool_format: str = ""
    local: bool = True

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(
            model=ModelId("big"),
            file="toy.gguf",
            architecture="toy",
            quantization="",
            parameters=1,
            size_bytes=1,
            ctx_size=TOY.context,
            parallel=4,
            vocab=VocabFingerprint(hash=self.vocab, tokens=TOY.size, architecture="toy"),
        )

    @property
    def exactness(self) -> Exactness:
        return Exactness(exact=True, settings="toy")

    cost: CostCurve = field(default_factory=lambda: CostCurve([CostPoint(width=1, ms=20), CostPoint(width=32, ms=22)]))

    @property
    def limits(self) -> SpeculatorLimits:
        return SpeculatorLimits(slots=4, ctx_size=TOY.context, ngram=self.ngram, device=DeviceKind.ELSEWHERE)

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        tokens = job.prompt.tokens or TOY.tokenize(job.prompt.text or "", special=True)
        return PreparedRequest(
            session=session,
            tokens=list(tokens),
            sampler=GreedyPicker(),
            piece=TOY.piece,
            end_tokens=frozenset(range(TOY.end, TOY.end + len(CONTROL))),
            seed=job.sampling.seed or 0,
        )

    def render(self, tokens: Sequence[int]) -> str:
        return b"".join(
            TOY.piece(token) if token < TOY.end else TOY.spelled(token).encode() for token in tokens
        ).decode("utf-8", "replace")

    def tokenize(self, text: str) -> list[int]:
        return TOY.tokenize(text)

    def close(self) -> None:
        return
