"""Windows, verify results, the interface of a target, and the verification of drafts. Does not use llama.cpp."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import TokenLogprob

Logits = npt.NDArray[np.float32]
Report = Callable[[Logits, int], TokenLogprob]
"""Gives the log probabilities of a picked token, for requests that ask for them."""


FIRST_EPOCH: Final = 64
"""The first epoch of a session. Smaller epochs are for tests before the first request."""


class Sampler(Protocol):
    """Chooses the next token. The choice depends only on the arguments, so drafts never change the text."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """The token that follows `history`."""
        ...


@runtime_checkable
class ConformingSampler(Protocol):
    """A sampler that may have to choose among a few allowed tokens only."""

    def conformed(self, logits: Logits) -> Logits:
        """The logits of the last choice; -inf for tokens that were not allowed."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens to compute for one slot from position `at` on.

    The first `committed` tokens are decided but not yet in the KV cache: the last token, or the rest of a prompt.
    The tokens after them are drafts. `parents` makes a draft tree: it gives the index in `tokens` of each token's
    parent, -1 for the first token; the likelier of two children comes first. Without `picks` no token is sampled and
    the window is a prefill chunk.
    """

    slot: int
    epoch: int
    at: int
    tokens: tuple[int, ...]
    parents: tuple[int, ...] | None = None
    picks: bool = True
    committed: int = 1
    scores: bool = False
    """Score given tokens: all of them count as accepted, and the verify result has a `Score` for each."""
    goes_on: bool = False
    """With `scores`: also sample the token after the last one."""
    drafts: int = 0
    """With `goes_on`: this many of its last tokens are drafts, to be verified behind the given ones."""
    ends: bool = False
    """With `scores`: also score the end of the text after the last token."""
    guesses: int = 0
    """How many tokens the target's own head, if it has one, should guess behind the tokens that are picked."""
    steps: int = 1
    """Up to so many tokens may be picked one after the other, each computed from the one before, if the window has no
    drafts and the target can do that. It may also pick fewer."""
    least: float = 0.0
    """With `steps` or `guesses`: stop where the product of the picks' or guesses' chances falls below this."""
    repeats: int = 0
    """With `steps`: stop where so many last tokens stand earlier in the text, so that they can be copied; 0: never."""


class Score(NamedTuple):
    """How well one given token fits. `logprob` and `entropy` (in nats) are those of the target's distribution."""

    gap: float
    """The logit of the target's own choice minus the logit of the token; 0 if the token is that choice."""
    logprob: float
    entropy: float


LEAST_GAP: Final = 1e-6
"""The least gap of a token that was not chosen, also if only noise or penalties decided against it."""


@dataclass(slots=True)
class VerifyResult:
    """The result of a window. `tokens` are the picked tokens: the accepted drafts, then the target's own token.

    `path` holds the indices of the window's tokens that count: the committed ones and the accepted drafts. If the
    window failed, `failure` says why and none of its tokens count.
    """

    slot: int
    epoch: int
    at: int
    tokens: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    failure: Failure | None = None
    scores: list[Score] = field(default_factory=list)
    """For a window with `scores`: one for each token after the committed ones; with `ends`, one more for the end."""
    replay: int = 0
    """How many accepted tokens must be computed again with the next window."""
    guesses: list[int] = field(default_factory=list)
    """What the target's own head guesses behind `tokens`."""
    sure: list[float] = field(default_factory=list)
    """How sure it is of each guess."""
    aside_ms: float = 0.0
    """The milliseconds in which the head read and guessed, which are no part of the pass."""


class Target(Protocol):
    """A model that verifies windows: the one in this process, or a ring of stages. For one thread only.

    `in_flight`: how many windows of one slot may be submitted before the first is collected. `window_max`: the most
    tokens of one window, counting its drafts and the last committed token.
    """

    in_flight: int
    n_slots: int
    ctx_size: int
    window_max: int
    trees: bool
    can_rollback: bool

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        """Take a slot for a session that starts with `tokens`. Returns the slot and how many tokens are cached."""
        ...

    def submit(self, windows: Sequence[Window]) -> None:
        """Submit windows, at most one for each slot in one call."""
        ...

    def collect(self) -> list[VerifyResult]:
        """Wait for submitted windows and return their verify results. Windows of closed slots get none.

        A result that takes much longer than the others may come from a later call.
        """
        ...

    def close(self, slot: int) -> None:
        """End the session. Its KV cells stay for the next prompt with the same beginning."""
        ...

    def shutdown(self) -> None:
        """Free everything."""
        ...


@runtime_checkable
class ReportsPasses(Protocol):
    """A target that reports the start of each pass."""

    def tell_passes(self, told: Callable[[int], None]) -> None:
        """Call `told` with n_tokens before each pass."""
        ...


@runtime_checkable
class SharesPrompts(Protocol):
    """A target that copies the beginning of a prompt from a session that has read it."""

    @property
    def least_shared(self) -> Callable[[int], int] | None:
        """How many tokens it must have in common with that session to be worth waiting for, by how many that session
        has; None: nothing is copied."""
        ...


@runtime_checkable
class UsesThreads(Protocol):
    """A target whose number of threads can change."""

    def use_threads(self, threads: int) -> None:
        """Use this number of threads from the next pass on. Call it on the thread that owns the target."""
        ...


def verify_window(
    window: Window,
    verdict: VerifyResult,
    logits_of: Callable[[int], Logits],
    history: list[int],
    sampler: Sampler,
    report: Report | None,
    end_tokens: frozenset[int],
    choice_of: Callable[[int, Sequence[int]], int | None] | None = None,
) -> None:
    """Sample after the last committed token, and go on while a draft equals the sampled token. Fills in `verdict`.

    `history` ends with the committed tokens; accepted drafts are appended to it. It stops after an end token.
    `choice_of` gives what the sampler would pick behind a history, where that is known without the logits.
    """
    child_of = _children(window)
    node: int | None = window.committed - 1
    verdict.path = list(range(window.committed))
    while node is not None:
        token = None if choice_of is None else choice_of(node, history)
        if token is None:
            logits = logits_of(node)
            token = sampler.pick(logits, history)
            if report is not None:
                verdict.logprobs.append(report(logits, token))
        verdict.tokens.append(token)
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
    """Compare each given token after the committed ones with the target's own choice there. Fills in `verdict`.

    `history` ends with the committed tokens; the given ones, and drafts that are accepted, are appended to it.
    """
    given = len(window.tokens) - window.drafts
    verdict.path = list(range(given))
    for place in range(window.committed, given):
        token = window.tokens[place]
        verdict.scores.append(_score_of(logits_of(place - 1), sampler, history, (token,)))
        verdict.tokens.append(token)
        history.append(token)
    if window.goes_on:
        verify_window(replace(window, committed=given), verdict, logits_of, history, sampler, None, end_tokens)
    if window.ends:
        logits = logits_of(len(window.tokens) - 1)
        verdict.scores.append(_score_of(logits, sampler, history, sorted(end_tokens)))


def _score_of(logits: Logits, sampler: Sampler, history: Sequence[int], given: Sequence[int]) -> Score:
    """The score of the most likely token of `given`; any of these tokens is a match."""
    choice = sampler.pick(logits, history)
    best = max(given, key=lambda token: float(logits[token]), default=choice)
    gap = 0.0 if choice in given else max(LEAST_GAP, float(logits[choice]) - float(logits[best]))
    shifted = logits - logits.max()
    weights = np.exp(shifted)
    total = float(weights.sum())
    level = float(np.log(total))
    possible = np.maximum(shifted, np.float32(-1e4))  # avoids 0 * infinity for tokens with logit -inf
    entropy = level - float(weights.dot(possible)) / total
    return Score(gap, max(-1e4, float(shifted[best]) - level), max(0.0, entropy))


def _children(window: Window) -> Callable[[int, int], int | None]:
    tokens, parents = window.tokens, window.parents
    if parents is None:
        return lambda node, token: node + 1 if node + 1 < len(tokens) and tokens[node + 1] == token else None
    child = {(parents[index], tokens[index]): index for index in range(len(tokens) - 1, window.committed - 1, -1)}
    return lambda node, token: child.get((node, token))


def check_prompt(tokens: Sequence[int], *, ctx_size: int) -> None:
    """Raise TwdError if a prompt is empty or longer than the context."""
    if not tokens:
        raise TwdError(FailureCode.BAD_REQUEST, "the prompt is empty; this model needs at least one token")
    if len(tokens) > ctx_size:
        message = f"a prompt of {len(tokens)} tokens is over ctx_size {ctx_size}"
        raise TwdError(FailureCode.CONTEXT_OVERFLOW, message)


def check(window: Window, *, vocabulary: int, ctx_size: int, trees: bool) -> None:
    """Raise TwdError if a window is not valid, before anything is computed."""
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
    """The number of tokens of the longest branch. Raises TwdError if `parents` is not a valid tree."""
    depths: list[int] = []
    for index, parent in enumerate(parents):
        if not -1 <= parent < index or (parent != index - 1 and (parent < 0 or index < committed)):
            raise TwdError(FailureCode.INTERNAL, f"token {index} of a tree cannot hang on token {parent}")
        depths.append(1 + (depths[parent] if parent >= 0 else 0))
    if len(depths) != length:
        raise TwdError(FailureCode.INTERNAL, f"a tree of {length} tokens names {len(depths)} parents")
    return max(depths)
