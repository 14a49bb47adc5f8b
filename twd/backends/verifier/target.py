"""A remote server as a target: each window of drafts is verified by scores, with one request."""

import concurrent.futures
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from twd.backends.clients.base import UNKNOWN, Backend, CompletionWish, whole_grammar
from twd.backends.clients.weighing import TokenWeight
from twd.backends.drafter.continuous_stream import ContinuousStream
from twd.backends.verifier.loop_thread import LoopThread
from twd.backends.verifier.token_texts import END, PieceReader, TokenTexts
from twd.decoding.window import LEAST_GAP, Logits, Report, Sampler, Score, VerifyResult, Window
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import Grammar, JobSubmitted, Prompt, Sampling
from twd.wire.prefix import common_prefix

CHUNK: Final = 256
"""Tokens of one request if no drafts are verified."""
PATIENCE_S: Final = 0.25
"""An answer that takes longer than this many seconds is late: other sessions continue without it."""
_PLAIN: Final = Sampling()
_GREEDY_ONLY = "a remote target judges only texts of temperature 0 without penalties and grammars"
_ENDS, _GOES_ON = Score(0.0, 0.0, 0.0), Score(1e4, -1e4, 0.0)
"""The score of a text's end where the model ends it, too, and where it goes on: no chance of an end is told."""


@dataclass(frozen=True, slots=True)
class RemoteSampler:
    """The sampling parameters for the server. The server has the logits, so it chooses the tokens."""

    sampling: Sampling
    pieces: PieceReader
    """Reads the text of chosen tokens."""
    grammar: Grammar | None = None
    ignore_eos: bool = False

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """Never called."""
        raise TwdError(FailureCode.INTERNAL, "the logits of a remote target are not here")

    @property
    def checks(self) -> bool:
        """Whether drafts can be verified. Scores give only the most likely token, so no other way of choosing works."""
        plain = all(getattr(self.sampling, name) == getattr(_PLAIN, name) for name in _MATTERS)
        return plain and self.grammar is None and not self.ignore_eos

    @property
    def wish(self) -> CompletionWish:
        """The same parameters as a request."""
        return CompletionWish(Prompt(tokens=[]), self.sampling, grammar=self.grammar, ignore_eos=self.ignore_eos)


_MATTERS: Final = (
    "temperature",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "dry_multiplier",
    "logit_bias",
)


def sampler_for(job: JobSubmitted, seed: int, pieces: PieceReader) -> RemoteSampler:
    """The sampler of a job."""
    return RemoteSampler(msgspec.structs.replace(job.sampling, seed=seed), pieces, whole_grammar(job), job.ignore_eos)


@dataclass(frozen=True, slots=True)
class _Request:
    window: Window
    verdict: "concurrent.futures.Future[VerifyResult]"


@dataclass(slots=True)
class _Session:
    sampler: RemoteSampler
    tokens: list[int] = field(default_factory=list)
    ahead: ContinuousStream | None = None


class RemoteTarget:
    """A `Target` whose passes are requests, sent for all sessions at once. Used by the thread that drives it.

    If a job does not choose the most likely token, its text is relayed: the server writes it in one stream, and drafts
    for it are ignored.
    """

    in_flight = 1
    trees = False
    can_rollback = True

    def __init__(
        self,
        backend: Backend,
        texts: TokenTexts,
        loop: LoopThread,
        *,
        ctx_size: int,
        slots: int = 16,
        window_max: int = 33,
        streams: bool = True,
    ) -> None:
        self.n_slots = slots
        self.ctx_size = ctx_size
        self.window_max = window_max
        self._backend = backend
        self._texts = texts
        self._loop = loop
        self._streams = streams
        self._sessions: dict[int, _Session] = {}
        self._sent: list[_Request] = []
        self._late: list[_Request] = []

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        """Take a slot. The server manages its own cache."""
        if not isinstance(sampler, RemoteSampler):
            raise TwdError(FailureCode.INTERNAL, "a remote target chooses by itself; give it a RemotePicker")
        if report is not None:
            raise TwdError(FailureCode.UNSUPPORTED, "log probabilities of a remote target are not told", "logprobs")
        if len(tokens) > self.ctx_size:
            text = f"a prompt of {len(tokens)} tokens is over the server's {self.ctx_size}"
            raise TwdError(FailureCode.CONTEXT_OVERFLOW, text)
        slot = next((slot for slot in range(self.n_slots) if slot not in self._sessions), None)
        if slot is None:
            raise TwdError(FailureCode.BUSY, f"all {self.n_slots} slots are taken")
        self._sessions[slot] = _Session(sampler)
        return slot, 0

    def submit(self, windows: Sequence[Window]) -> None:
        """Send the requests."""
        for window in windows:
            session = self._sessions.get(window.slot)
            if session is not None:
                self._sent.append(_Request(window, self._loop.start(self._check(session, window))))

    def collect(self) -> list[VerifyResult]:
        """Wait a limited time for the answers; a later call returns late ones. A failure ends only its own window."""
        if self._sent:
            _wait(self._sent, concurrent.futures.ALL_COMPLETED)
        else:
            _wait(self._late, concurrent.futures.FIRST_COMPLETED)
        requests = [*self._late, *self._sent]
        ready = [request for request in requests if request.verdict.done()]
        self._sent, self._late = [], [request for request in requests if request not in ready]
        return [_answer(request) for request in ready]

    def close(self, slot: int) -> None:
        """Close the session: the server stops writing it."""
        session = self._sessions.pop(slot, None)
        if session is not None:
            self._hang_up(slot)
            self._loop.start(_stop(session))

    def _hang_up(self, slot: int) -> None:
        for requests in (self._sent, self._late):
            for request in [one for one in requests if one.window.slot == slot]:
                request.verdict.cancel()
                requests.remove(request)

    def shutdown(self) -> None:
        """Close all sessions."""
        for slot in list(self._sessions):
            self.close(slot)

    # -- on the loop's thread ------------------------------------------------------------------

    async def _check(self, session: _Session, window: Window) -> VerifyResult:
        verdict = VerifyResult(window.slot, window.epoch, window.at)
        tokens = session.tokens
        if window.at > len(tokens):
            raise TwdError(FailureCode.INTERNAL, f"a window at {window.at} leaves a gap after {len(tokens)}")
        del tokens[window.at :]
        if not window.picks:
            tokens += window.tokens
            verdict.path = list(range(len(window.tokens)))
            return verdict
        if window.scores:
            return await self._weigh(session, window, verdict)
        before = [*tokens, *window.tokens[: window.committed]]
        drafts = window.tokens[window.committed :]
        chosen = await self._choose(session, before, drafts)
        if session.sampler.ignore_eos:
            await self._texts.learn(chosen)
        else:
            await self._texts.learn(chosen, before)
            chosen = self._texts.cut(chosen)
        verdict.tokens = chosen
        await session.sampler.pieces.read(verdict.tokens)
        verdict.path = list(range(window.committed + len(chosen) - 1))
        tokens[:] = [*before, *chosen[:-1]]
        return verdict

    async def _weigh(self, session: _Session, window: Window, verdict: VerifyResult) -> VerifyResult:
        """Score given tokens: one request for all of them."""
        if not session.sampler.checks:
            raise TwdError(FailureCode.UNSUPPORTED, _GREEDY_ONLY, "temperature")
        before = [*session.tokens, *window.tokens[: window.committed]]
        given = list(window.tokens[window.committed :])
        weights, choice = await self._backend.weigh([*before, *given], len(before) - 1)
        verdict.scores = [_score_of(weight, token) for weight, token in zip(weights, given, strict=True)]
        verdict.path = list(range(len(window.tokens)))
        verdict.tokens = given
        session.tokens[:] = [*before, *given]
        await self._texts.learn([choice], session.tokens)
        if window.goes_on:
            verdict.tokens = [*given, self._texts.ended(choice)]
        if window.ends:
            verdict.scores.append(_ENDS if self._texts.ended(choice) == END else _GOES_ON)
        await session.sampler.pieces.read(verdict.tokens)
        return verdict

    async def _choose(self, session: _Session, before: list[int], drafts: Sequence[int]) -> list[int]:
        """The drafts that are accepted, then the server's own choice."""
        if not session.sampler.checks:
            return [await self._stream(session, before, None)]
        known = session.ahead.ready(before) if session.ahead is not None else []
        standing = common_prefix(known, drafts)
        if standing < len(known):
            return known[: standing + 1]  # the stream has the answer already, so no request is needed
        if drafts:
            return await self._score(before, drafts)
        if self._streams:
            return [await self._stream(session, before, CHUNK)]
        return await self._backend.score(before, len(before) - 1)

    async def _stream(self, session: _Session, before: list[int], chunk: int | None) -> int:
        if session.ahead is None:
            session.ahead = ContinuousStream(self._backend, session.sampler.wish, self.ctx_size, chunk)
        return await session.ahead.next(before)

    async def _score(self, before: list[int], drafts: Sequence[int]) -> list[int]:
        """One request for the whole window; for a position that the server did not return, one more request."""
        choices = await self._backend.score([*before, *drafts], len(before) - 1)
        chosen: list[int] = []
        for place, choice in enumerate(choices):
            if choice == UNKNOWN:
                held = [*before, *chosen]
                choice = (await self._backend.score(held, len(held) - 1))[0]
            chosen.append(choice)
            if place >= len(drafts) or choice != drafts[place] or self._texts.ended(choice) == END:
                break
        return chosen


def _score_of(weight: TokenWeight, token: int) -> Score:
    gap = 0.0 if weight.choice == token else max(LEAST_GAP, weight.choice_logprob - weight.logprob)
    return Score(gap, max(-1e4, weight.logprob), max(0.0, weight.entropy))


async def _stop(session: _Session) -> None:
    if session.ahead is not None:
        session.ahead.stop()


def _wait(requests: Sequence[_Request], until: str) -> None:
    concurrent.futures.wait([request.verdict for request in requests], PATIENCE_S, until)


def _answer(request: _Request) -> VerifyResult:
    try:
        return request.verdict.result()
    except TwdError as error:
        return _failed(request.window, error.failure)
    except concurrent.futures.CancelledError:
        gone = Failure(code=FailureCode.WORKER_LOST, message="the target is shutting down")
        return _failed(request.window, gone)


def _failed(window: Window, failure: Failure) -> VerifyResult:
    return VerifyResult(window.slot, window.epoch, window.at, failure=failure)
