"""What a target is asked and what it answers; the walk that decides which drafts stand. No llama.cpp in here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import TokenLogprob

Logits = npt.NDArray[np.float32]
Report = Callable[[Logits, int], TokenLogprob]
"""Log probabilities of a picked token, for those who asked for them."""


FIRST_EPOCH: Final = 64
"""Epochs of sessions begin here; those below are for trials, before anybody is served."""


class Sampler(Protocol):
    """Chooses the next token; pure in its arguments, so that drafts can never change a text."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """The token that follows `history`."""
        ...


@runtime_checkable
class ConformingSampler(Protocol):
    """A picker that may have to choose among few tokens."""

    def conformed(self, logits: Logits) -> Logits:
        """The logits of the last choice, tokens left out that could not be chosen."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens to compute for one slot from position `at` on.

    The first `committed` tokens are decided already, though not yet in the KV cache: the last token, or the rest of
    a prompt. Those behind them are drafts. `parents` makes them a tree: the index of each token's parent in `tokens`,
    -1 for the first; of two children, the likelier comes first. Without `picks` nothing is picked: a prefill chunk.
    """

    slot: int
    epoch: int
    at: int
    tokens: tuple[int, ...]
    parents: tuple[int, ...] | None = None
    picks: bool = True
    committed: int = 1
    scores: bool = False
    """All tokens stand, whatever the target would have picked; the verdict tells how well each fits."""
    goes_on: bool = False
    """With `scores`: what follows the last token is picked."""
    ends: bool = False
    """With `scores`: the text is to end behind the last token, and that is scored, too."""


class Score(NamedTuple):
    """How well one given token fits."""

    gap: float
    """How much the logit of the target's own choice is above that of the token; 0 where they are the same."""
    logprob: float
    entropy: float


LEAST_GAP: Final = 1e-6
"""The gap of a token that was not chosen is never less, even if noise or penalties decided against it."""


@dataclass(slots=True)
class VerifyResult:
    """What came of a window: the picked tokens in order (drafts that stand, then the target's own).

    `path` holds the indices of the window's tokens that stand, the committed ones included. A window that failed
    says why in `failure`, and nothing of it stands.
    """

    slot: int
    epoch: int
    at: int
    tokens: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    failure: Failure | None = None
    scores: list[Score] = field(default_factory=list)
    """Of a window that is scored: of each token behind the committed ones, and of the end where that is scored."""
    replay: int = 0
    """How many tokens that stand must be computed again with the next window."""


class Target(Protocol):
    """A model that checks windows: the one in this process, or a ring of stages. For one thread only.

    `in_flight` windows of one slot may be submitted before the first is collected. `window_max` tokens, drafts and
    the last committed one, fit one window.
    """

    in_flight: int
    n_slots: int
    ctx_size: int
    window_max: int
    trees: bool
    can_rollback: bool

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        """Take a slot for a session that starts with `tokens`: (slot, how many of them are cached)."""
        ...

    def submit(self, windows: Sequence[Window]) -> None:
        """Hand in windows, at most one a slot and call."""
        ...

    def collect(self) -> list[VerifyResult]:
        """The verdicts on windows submitted earlier; waits for them. Windows of closed slots get none.

        One that takes much longer than others may come from a later call.
        """
        ...

    def close(self, slot: int) -> None:
        """The session is over; its KV cells stay for the next prompt that begins alike."""
        ...

    def shutdown(self) -> None:
        """Give back everything."""
        ...


@runtime_checkable
class ReportsPasses(Protocol):
    """A target that says when each of its passes begins."""

    def tell_passes(self, told: Callable[[int], None]) -> None:
        """Call with the rows of each pass, before it begins."""
        ...


@runtime_checkable
class UsesThreads(Protocol):
    """A target that can compute with another number of threads while it lives."""

    def use_threads(self, threads: int) -> None:
        """With so many from the next pass on; for the thread that owns the target."""
        ...


def verify_window(
    window: Window,
    verdict: VerifyResult,
    logits_of: Callable[[int], Logits],
    history: list[int],
    sampler: Sampler,
    report: Report | None,
    end_tokens: frozenset[int],
) -> None:
    """Pick from the last committed token on, as long as a draft carries what was picked; fills in the verdict.

    `history` ends with the committed tokens; drafts that stand are appended to it. Nothing follows an end token.
    """
    child_of = _children(window)
    node: int | None = window.committed - 1
    verdict.path = list(range(window.committed))
    while node is not None:
        logits = logits_of(node)
        token = sampler.pick(logits, history)
        verdict.tokens.append(token)
        if report is not None:
            verdict.logprobs.append(report(logits, token))
        node = None if token in end_tokens else child_of(node, token)
        if node is not None:
            verdict.path.append(node)
            history.append(token)


def score(
    window: Window,
    verdict: VerifyResult,
    logits_of: Callable[[int], Logits],
    history: list[int],
    sampler: Sampler,
    end_tokens: frozenset[int],
) -> None:
    """Compare each token behind the committed ones with the target's own choice at its place; fills in the verdict.

    `history` ends with the committed tokens; all others are appended to it.
    """
    verdict.path = list(range(len(window.tokens)))
    for place in range(window.committed, len(window.tokens)):
        token = window.tokens[place]
        verdict.scores.append(_score_of(logits_of(place - 1), sampler, history, (token,)))
        verdict.tokens.append(token)
        history.append(token)
    if window.goes_on:
        verdict.tokens.append(sampler.pick(logits_of(len(window.tokens) - 1), history))
    if window.ends:
        logits = logits_of(len(window.tokens) - 1)
        verdict.scores.append(_score_of(logits, sampler, history, sorted(end_tokens)))


def _score_of(logits: Logits, sampler: Sampler, history: Sequence[int], given: Sequence[int]) -> Score:
    """`given`: tokens any of which would do."""
    choice = sampler.pick(logits, history)
    best = max(given, key=lambda token: float(logits[token]), default=choice)
    gap = 0.0 if choice in given else max(LEAST_GAP, float(logits[choice]) - float(logits[best]))
    shifted = logits - logits.max()
    weights = np.exp(shifted)
    total = float(weights.sum())
    level = float(np.log(total))
    possible = np.maximum(shifted, np.float32(-1e4))  # an impossible token adds nothing, instead of 0 times infinity
    entropy = level - float(weights.dot(possible)) / total
    return Score(gap, max(-1e4, float(shifted[best]) - level), max(0.0, entropy))


def _children(window: Window) -> Callable[[int, int], int | None]:
    tokens, parents = window.tokens, window.parents
    if parents is None:
        return lambda node, token: node + 1 if node + 1 < len(tokens) and tokens[node + 1] == token else None
    child = {(parents[index], tokens[index]): index for index in range(len(tokens) - 1, window.committed - 1, -1)}
    return lambda node, token: child.get((node, token))


def check_prompt(tokens: Sequence[int], *, ctx_size: int) -> None:
    """Refuse a prompt that cannot be served, before any work begins."""
    if not tokens:
        raise TwdError(FailureCode.BAD_REQUEST, "the prompt is empty; this model needs at least one token")
    if len(tokens) > ctx_size:
        message = f"a prompt of {len(tokens)} tokens is over ctx_size {ctx_size}"
        raise TwdError(FailureCode.CONTEXT_OVERFLOW, message)


def check(window: Window, *, vocabulary: int, ctx_size: int, trees: bool) -> None:
    """Refuse a window that makes no sense, before anything is computed."""
    length = len(window.tokens)
    if not 1 <= window.committed <= length:
        raise TwdError(FailureCode.INTERNAL, f"a window of {length} tokens cannot have {window.committed} committed")
    if window.at < 0 or min(window.tokens) < 0 or max(window.tokens) >= vocabulary:
        raise TwdError(FailureCode.BAD_REQUEST, f"a token is outside this model's vocabulary of {vocabulary}")
    if window.parents is not None and not trees:
        raise TwdError(FailureCode.UNSUPPORTED, "this target checks chains only; set engine.layout to tree for trees")
    end = window.at + (length if window.parents is None else _depth(window.parents, window.committed, length))
    if end > ctx_size:
        raise TwdError(FailureCode.CONTEXT_OVERFLOW, f"position {end} is beyond the {ctx_size} tokens of ctx_size")


def _depth(parents: Sequence[int], committed: int, length: int) -> int:
    """How many tokens the longest branch has; raises where `parents` is no tree."""
    depths: list[int] = []
    for index, parent in enumerate(parents):
        if not -1 <= parent < index or (parent != index - 1 and (parent < 0 or index < committed)):
            raise TwdError(FailureCode.INTERNAL, f"token {index} of a tree cannot hang on token {parent}")
        depths.append(1 + (depths[parent] if parent >= 0 else 0))
    if len(depths) != length:
        raise TwdError(FailureCode.INTERNAL, f"a tree of {length} tokens names {len(depths)} parents")
    return max(depths)
