"""The decisions of the speculator: which sessions run, what the next pass verifies, which tokens are accepted.

There is no clock, no engine and no bus here. Time comes in as an argument, passes leave as windows, and events leave
as effects. A session has one window in flight; where the target is a pipeline, it can have several. Window i+1 then
leaves on the assumption that all drafts of window i are accepted. A mismatch starts a new epoch, and all windows in
flight of the old epoch become void.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile

from msgspec.structs import replace

from twd.decoding.pipeline import PipelineState
from twd.decoding.window import VerifyResult
from twd.drafting.window_value import Cost
from twd.kit.effects import Effect
from twd.speculator.core.batch_planning import NextStep, StepPlanner
from twd.speculator.core.consensus import CONSENSUS, Consensus
from twd.speculator.core.drafted_experts import DraftedExperts
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.outgoing import Outgoing
from twd.speculator.core.pipelining import PipelinePlanner
from twd.speculator.core.session import PreparedRequest, Session
from twd.speculator.core.session_ends import SessionEnds
from twd.speculator.core.session_table import SessionTable
from twd.speculator.core.telling import opened, started
from twd.speculator.core.window_results import WindowResults
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.speculator.drafters.pool import DrafterPool
from twd.wire.base import InstanceId, JobId
from twd.wire.draft import DraftProposed
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import FinishReason, JobSubmitted
from twd.wire.judging import RACERS, TokensAgreed

_NO_DRAFTER = (
    "no drafter is there, and speculation.fallback_on_draft_failure is off: "
    "start one (`twd run drafter`), or set it to true"
)

Render = Callable[[Sequence[int]], str]
"""Tokens as text with control tokens spelled out, for drafters that work on text."""


class SpeculatorCore:
    """All sessions of one target."""

    def __init__(
        self,
        identity: SpeculatorIdentity,
        limits: SpeculatorLimits,
        cost: Cost,
        render: Render = lambda tokens: "",
        pipe: PipelineState | None = None,
        shared_cost: Cost | None = None,
    ) -> None:
        """`cost`: milliseconds from a pass to its results, by its number of tokens; `shared_cost`: the same of passes
        that several sessions share. `pipe`: set where the target is a pipeline."""
        self.identity = identity
        self.limits = limits
        self.cost = cost
        self.render = render
        self._table = SessionTable(limits.slots)
        self.queue, self.sessions = self._table.queue, self._table.running
        self.by_job, self.by_id = self._table.by_job, self._table.by_id
        usual = limits.undo.usual(cost) if limits.undo is not None else cost
        self.drafter_pool = DrafterPool(identity, limits, usual, self.sessions, self.queue)
        self.consensus = Consensus(limits)
        self.drafted = DraftedExperts(limits.experts) if limits.experts is not None else None
        self._planner: StepPlanner = (
            StepPlanner(limits, cost, self.sessions, self.drafter_pool, self.consensus, self.drafted, shared_cost)
            if pipe is None
            else PipelinePlanner(limits, pipe, self.sessions, self.drafter_pool, self.consensus)
        )
        self.draining = False
        self._out = Outgoing(limits, cost, self.sessions)
        pool = self.drafter_pool
        self._ends = SessionEnds(self._table, self._out, pool, self.consensus, self._planner.recall)
        self._results = WindowResults(
            identity, limits, self._table, self._ends, self._out, pool, self.consensus, self.drafted
        )

    # -- what comes in -------------------------------------------------------------------------

    def check(self, job: JobSubmitted, coming: int = 0) -> int:
        """Raise TwdError for a job that cannot be queued. Returns how many jobs wait before it, including `coming`
        ones."""
        if self.draining:
            raise TwdError(FailureCode.DRAINING, "this speculator is shutting down")
        if job.judge is not None and not self.limits.score_rows:
            raise TwdError(FailureCode.UNSUPPORTED, f"{self.identity.model} cannot score given tokens", "judge")
        if self._lacks_drafters(job):
            raise TwdError(FailureCode.BACKEND_DOWN, _NO_DRAFTER)
        waiting = max(0, len(self.queue) - self.sharing) + coming
        if waiting >= self.limits.max_queue:
            raise TwdError(FailureCode.BUSY, f"{waiting} jobs are waiting for {self.identity.model} already")
        return waiting

    def submit(self, job: JobSubmitted, opening: PreparedRequest, now: float) -> None:
        """Queue a job whose prompt is tokenized. A job that does not fit the context fails here."""
        old = self.by_job.get(job.job)
        if old is not None:
            if old.job.attempt >= job.attempt:
                return
            self._ends.drop(old)
        session = Session(self._bounded(job), opening, self.drafter_pool.calibrations, now, self.limits.ngram_match)
        self._table.add(session)
        problem = session.overflow(self.limits.ctx_size)
        if problem:
            field = "prompt" if session.prompt_len >= self.limits.ctx_size else "max_tokens"
            self._ends.fail(session, Failure(code=FailureCode.CONTEXT_OVERFLOW, message=problem, field=field), now)
            return
        ended = session.ended_before(self.limits.ctx_size) if job.resume else None
        if ended is not None:
            self._ends.finish(session, ended, now)
            return
        self.queue.append(session)

    def _bounded(self, job: JobSubmitted) -> JobSubmitted:
        """Returns the job with its window limited to what this target takes."""
        if job.speculation.window <= self.limits.max_window:
            return job
        return replace(job, speculation=replace(job.speculation, window=self.limits.max_window))

    def cancel(self, job: JobId, now: float, reason: str = "", attempts: int = 0) -> None:
        """Cancel a job because its owner asked. `attempts`: only attempts up to this number; 0: any attempt."""
        session = self.by_job.get(job)
        if session is not None and (not attempts or session.job.attempt <= attempts):
            self._ends.fail(session, Failure(code=FailureCode.CANCELLED, message=reason or "cancelled"), now)

    def fail_all(self, failure: Failure, now: float) -> None:
        """Fail every job with this failure, because the target is lost."""
        for session in list(self.by_job.values()):
            self._ends.fail(session, failure, now)

    def fail_job(self, job: JobId, failure: Failure, now: float) -> None:
        """Fail one job."""
        session = self.by_job.get(job)
        if session is not None:
            self._ends.fail(session, failure, now)

    def attach(self, drafter: AttachedDrafter, now: float) -> None:
        """Attach a drafter and tell it the running sessions."""
        self._out.say_all(now)
        self.drafter_pool.attach(drafter)
        for session in self.sessions.values():
            if session.speculates:
                self._tell_open(session, now)

    def detach(self, name: InstanceId, now: float) -> None:
        """Detach a drafter. Jobs that need drafters fail if none is left."""
        self.drafter_pool.detach(name)
        failure = Failure(code=FailureCode.BACKEND_DOWN, message=_NO_DRAFTER)
        for session in [one for one in self.by_job.values() if self._lacks_drafters(one.job)]:
            self._ends.fail(session, failure, now)

    def _lacks_drafters(self, job: JobSubmitted) -> bool:
        wants = job.speculation.enabled and job.judge is None
        return self.limits.needs_drafters and wants and not self.drafter_pool.drafters

    def assess(self, name: InstanceId) -> None:
        """Publish whether a drafter speeds up this target, if enough was measured and the answer is new."""
        found = self.drafter_pool.assess(name)
        if found is not None:
            self._out.tell(found)

    def draft(self, event: DraftProposed, tokens: Sequence[int], now: float) -> None:
        """Take the drafts of a drafter. Drafts that do not continue the text are dropped."""
        self.drafter_pool.lives(event.drafter)
        session = self.by_id.get(event.session)
        if session is None or session.opened_at < 0 or not session.speculates:
            return
        link = session.links.get(event.drafter)
        if link is not None and link.ignored(session.generated):
            return
        if self.drafted is not None and link is not None and event.experts:
            self.drafted.hear(event, tokens)
        depth = session.tree.depth(event.drafter)
        self._hang(session, event, tokens)
        self.drafter_pool.hear(session, event, session.tree.depth(event.drafter) > depth, now)

    def _hang(self, session: Session, event: DraftProposed, tokens: Sequence[int]) -> None:
        at, prefix, confidence = event.at, event.prefix, list(event.confidence)
        size = self.identity.vocab.tokens
        tokens = list(takewhile(lambda token: token < size, tokens))  # others fail the window
        if at <= len(session.tokens):
            known = session.place(at, prefix, tokens)
            if known is None:
                session.tree.stale += 1
                return
            at, prefix = len(session.tokens), session.hashes[-1]
            tokens, confidence = tokens[known:], confidence[known:]
        session.tree.add(event.drafter, at, prefix, tokens, confidence)

    # -- slots ---------------------------------------------------------------------------------

    def admit(self, now: float) -> list[Session]:
        """Returns the sessions that should get a slot of the target now, oldest first."""
        self._ends.fail_overdue(now)
        return self._table.take_waiting(self.limits.least_shared)

    @property
    def sharing(self) -> int:
        """How many sessions of the queue have a free slot, and wait only until their beginning was read for another
        one."""
        return self._table.sharing

    def opened(self, session: Session, slot: int, cached: int, now: float) -> None:
        """The target gave a session a slot whose cache holds its first `cached` tokens."""
        self._out.say_all(now)
        read = min(cached, len(session.tokens) - 1 - session.unread)  # unread tokens are still to be scored
        session.fed = session.read_from = read
        session.spoke_at = session.accepted_at = session.passed_at = now
        self._table.place(session, slot)
        if session.opened_at < 0:
            self._start(session, cached, now)

    def _start(self, session: Session, cached: int, now: float) -> None:
        session.opened_at, session.cached = now, min(cached, session.prompt_len)
        session.unsaid.append(started(session, self.identity))
        rows = session.unfed + 1
        if rows > self.limits.prefill_rows or self.cost(rows) > self.limits.stream_ms:
            self._out.say(session, now)
        if session.job.max_tokens == 0 or session.scored:
            self._ends.finish(session, FinishReason.LENGTH, now)
        elif session.speculates and self.drafter_pool.drafters:
            self._tell_open(session, now)

    def replay(self) -> None:
        """The target was rebuilt and has an empty cache. Running sessions wait for a slot again, before all others,
        and the target reads their tokens again. No token is published twice."""
        running = sorted(self.sessions.values(), key=lambda session: session.opened_at)
        for session in reversed(running):
            self._out.say(session, session.accepted_at)
            self._table.requeue(session)
        self._table.forget_slots()

    def _tell_open(self, session: Session, now: float) -> None:
        """Publish the session to each drafter by name, so that nobody else receives the prompt."""
        session.told_open = True
        self.drafter_pool.join(session, now)
        text = self.render(session.tokens) if self.drafter_pool.wants_text else ""
        device = self.limits.device
        for name, link in session.links.items():
            drafter = self.drafter_pool.drafters.get(name)
            shown = text if drafter is not None and drafter.by_text else ""
            event = opened(session, self.identity, name, link.credit, device, shown)
            self._out.tell(replace(event, wants_experts=self.drafted is not None))
        if self.consensus.wanted(session):
            event = opened(session, self.identity, RACERS, 0, device, "")
            self._out.tell(replace(event, consensus=self.limits.consensus, voters=self.drafter_pool.voters))

    def released(self) -> list[int]:
        """Returns the slots whose sessions ended. The target keeps their tokens for the next prompt."""
        return self._table.released()

    # -- the next pass -------------------------------------------------------------------------

    def plan(self, now: float) -> NextStep:
        """Returns the windows of the next pass, or the time until which to wait."""
        plan = self._planner.plan(now)
        for session in plan.read:
            self._out.tell_all(self.drafter_pool.grant_reading(session))
        if not plan.windows:
            wakes = [session.deadline for session in self.by_job.values()]
            wakes += [plan.wake_at] if plan.wake_at is not None else []
            plan.wake_at = min(wakes, default=None)
        return plan

    # -- what came back ------------------------------------------------------------------------

    def verdicts(self, verdicts: Sequence[VerifyResult], now: float) -> None:
        """Take the results of some windows."""
        for verdict in verdicts:
            self._results.take(verdict, now)
        self._out.keep_alive(self.by_job.values(), now)

    def agree(self, event: TokensAgreed, now: float) -> None:
        """Take tokens on which drafters agree: they become text if they fit and the job allows it."""
        session = self.by_id.get(event.session)
        if session is None or session.opened_at < 0 or not self.consensus.wanted(session):
            self.consensus.refused += 1
            return
        self.consensus.heard = True
        session.misses = 0
        if session.job.whole or session.first_at < 0:
            tokens = event.tokens
            draft = DraftProposed(
                session=event.session, drafter=CONSENSUS, at=event.at, prefix=event.prefix, tokens=tokens
            )
            self._hang(session, draft, tokens)
        elif session.inflight_windows:
            session.vote = event
        else:
            self._results.take_agreed(session, event, now)

    # -- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Run once a second: fail overdue jobs, and send a sign of life where nothing was published for long."""
        self._ends.fail_overdue(now)
        self._out.keep_alive(self.by_job.values(), now)

    # -- what goes out -------------------------------------------------------------------------

    def effects(self) -> list[Effect]:
        """Returns the effects since the last call."""
        return self._out.effects()

    @property
    def idle(self) -> bool:
        """Whether there is no job, neither queued nor running."""
        return not self.by_job
