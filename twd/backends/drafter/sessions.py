"""The sessions of a drafter behind another program's server, and the requests that run for them."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from twd.backends.clients.base import Backend, CompletionWish
from twd.backends.drafter.core import DraftRequest, RemoteDraft, RemoteTextDraft, RemoteTokenDraft
from twd.kit.clock import Clock
from twd.kit.jobs.liveness import JobLiveness
from twd.kit.tasks import TaskGroup
from twd.wire.base import InstanceId, JobId, SessionId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import FinishReason, Prompt, TokensAccepted

SESSIONS_MAX: Final = 8
"""The most sessions that one server drafts for at once; with more, each gets slower."""
_OF_ITS_TEXT: Final = {FailureCode.BAD_REQUEST, FailureCode.CONTEXT_OVERFLOW, FailureCode.TOO_LARGE}
"""Failures that concern this text or a longer one; the server still works for other texts."""

AnyDraft = RemoteDraft[str] | RemoteDraft[tuple[int, ...]]
AnyAsk = DraftRequest[str] | DraftRequest[tuple[int, ...]]


class DraftSessions:
    """Runs the drafts of all sessions: stops useless requests, starts requests that are due, publishes new guesses."""

    def __init__(
        self,
        drafter: InstanceId,
        clock: Clock,
        tasks: TaskGroup,
        propose: Callable[[DraftProposed], None],
        outcome: Callable[[TwdError | None], None],
    ) -> None:
        self._drafter = drafter
        self._clock = clock
        self._tasks = tasks
        self._propose = propose
        self._outcome = outcome
        """Called when a request ended, with the server's error or None."""
        self.backend: Backend | None = None
        self._drafts: dict[SessionId, AnyDraft] = {}
        self._sessions: dict[JobId, SessionId] = {}
        self._streams: dict[SessionId, tuple[int, asyncio.Task[None]]] = {}
        self._liveness = JobLiveness()
        self.proposed = 0

    def __len__(self) -> int:
        return len(self._drafts)

    # -- sessions ------------------------------------------------------------------------------

    def open(self, event: SessionOpened, *, by_tokens: bool) -> None:
        """Start drafting for a session; a known session is updated."""
        for silent in self._liveness.give_up(self._clock.now()):
            self.close_job(silent)
        draft = self._drafts.get(event.session)
        if draft is not None:
            draft.follow(event)
        elif len(self._drafts) < SESSIONS_MAX and (by_tokens or event.text):
            draft = RemoteTokenDraft(event, self._drafter) if by_tokens else RemoteTextDraft(event, self._drafter)
            self.close_job(event.job)
            self._drafts[event.session] = draft
            self._sessions[event.job] = event.session
        else:
            return
        self._liveness.hear(event.job, self._clock.now())
        self._move(draft)

    def accept(self, event: TokensAccepted) -> bool:
        """The target accepted tokens; False if messages about this session were lost."""
        draft = self._drafts.get(self._sessions.get(event.job, SessionId("")))
        if draft is None:
            return not self._liveness.returns(event.job)
        self._liveness.hear(event.job, self._clock.now())
        if not event.tokens:
            return True
        if isinstance(draft, RemoteTokenDraft):
            whole = draft.accept(event.at, event.tokens, tuple(event.tokens))
        else:
            assert isinstance(draft, RemoteTextDraft)
            whole = draft.accept(event.at, event.tokens, event.text)
        self._move(draft)
        return whole

    def grant(self, session: SessionId, credit: int) -> None:
        """Set how many tokens to run ahead."""
        draft = self._drafts.get(session)
        if draft is not None:
            draft.grant(credit)
            self._move(draft)

    def close(self, session: SessionId) -> None:
        """Stop drafting for a session."""
        draft = self._drafts.pop(session, None)
        if draft is None:
            return
        if self._sessions.get(draft.job) == session:
            del self._sessions[draft.job]
            self._liveness.forget(draft.job)
        running = self._streams.pop(session, None)
        if running is not None:
            running[1].cancel()

    def close_job(self, job: JobId) -> None:
        """Close the session of a job that ended."""
        self.close(self._sessions.get(job, SessionId("")))

    def close_all(self) -> None:
        """Stop drafting for all sessions."""
        for session in list(self._drafts):
            self.close(session)

    # -- requests ------------------------------------------------------------------------------

    def _move(self, draft: AnyDraft) -> None:
        running = self._streams.get(draft.session)
        if running is not None and running[0] != draft.stream:
            running[1].cancel()
            del self._streams[draft.session]
        if draft.due and self.backend is not None:
            ask = draft.ask()
            task = self._tasks.start(f"draft {draft.session}", self._run(self.backend, draft, ask))
            self._streams[draft.session] = (ask.number, task)
        proposal = draft.proposal()
        if proposal is not None:
            self.proposed += 1
            self._propose(proposal)

    async def _run(self, backend: Backend, draft: AnyDraft, ask: AnyAsk) -> None:
        """Run one request from its start to its end."""
        try:
            async with aclosing(backend.stream(_wish(ask))) as pieces:
                since, came = self._clock.now(), False
                async for piece in pieces:
                    now = self._clock.now()
                    came = _feed(draft, ask.number, piece.text, piece.tokens, (now - since) * 1000) or came
                    since = now
                    if piece.end is not None:
                        self._streams.pop(draft.session, None)
                        draft.finish(ask.number, by_itself=piece.end is FinishReason.STOP or not came)
                    self._move(draft)
        except TwdError as error:
            self._streams.pop(draft.session, None)
            draft.finish(ask.number, by_itself=False)  # nothing is asked again before more is accepted
            if error.code in _OF_ITS_TEXT:
                self.close(draft.session)
            else:
                self._outcome(error)
            return
        self._outcome(None)


def _wish(ask: AnyAsk) -> CompletionWish:
    if isinstance(ask.units, str):
        return CompletionWish(prompt=Prompt(text=ask.units), max_tokens=ask.max_tokens)
    return CompletionWish(prompt=Prompt(tokens=list(ask.units)), max_tokens=ask.max_tokens)


def _feed(draft: AnyDraft, number: int, text: str, tokens: list[int], ms: float) -> bool:
    """Add a piece to a draft; returns whether the piece had any units."""
    if isinstance(draft, RemoteTokenDraft):
        draft.take(number, tuple(tokens), ms)
        return bool(tokens)
    assert isinstance(draft, RemoteTextDraft)
    draft.take(number, text, ms)
    return bool(text)
