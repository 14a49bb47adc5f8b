"""The speculator's decisions: which sessions run, what the next pass checks, what became text.

No clock, no engine, no bus: time comes in as an argument, passes go out as windows, and what is to
be told goes out as effects. One window a session may be in flight, or several where the target is a
pipeline: window i+1 then leaves on the assumption that window i holds, and a mismatch opens a new
epoch in which everything still in flight is void.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from msgspec.structs import replace

from twd.engine.window import Verdict, Window
from twd.kit.effects import Effect, Publish
from twd.speculator.acceptance import Calibration
from twd.speculator.links import Drafter, Link
from twd.speculator.session import NGRAM, Flight, Opening, Session
from twd.speculator.tree import Node, lay_out
from twd.speculator.window import Cost, best_cut, common_width, expected_tokens, useful_credit, worth_waiting
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DrafterChecked, DraftGranted, DraftProposed, SessionClosed, SessionOpened
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import (
    FinishReason,
    JobFailed,
    JobFinished,
    JobStarted,
    JobSubmitted,
    TokensAccepted,
)
from twd.wire.model import VocabFingerprint

ENOUGH_TO_TELL = 16
"""So many guesses must have been checked before a drafter is judged."""

Render = Callable[[Sequence[int]], str]
"""Tokens as text with control tokens spelled out, for drafters that work on text."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose decisions these are."""

    model: ModelId
    speculator: InstanceId
    node: NodeId
    vocab: VocabFingerprint
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one speculator; every queue has one."""

    slots: int
    ctx_size: int
    max_queue: int = 64
    max_window: int = 32
    prefill_rows: int = 64
    in_flight: int = 1
    tree: bool = False
    branches: int = 8
    can_rollback: bool = True
    ngram: bool = True
    keepalive_s: float = 1.0
    first_credit: int = 4
    shares_cores: bool = True


@dataclass(slots=True)
class Plan:
    """What to do next: a pass, or wait until something comes or `wake_at` is reached."""

    windows: list[Window] = field(default_factory=list)
    rows: int = 0
    wake_at: float | None = None


class SpeculatorCore:
    """All sessions of one target."""

    def __init__(self, identity: Identity, limits: Limits, cost: Cost, render: Render = lambda tokens: "") -> None:
        self.identity = identity
        self.limits = limits
        self.cost = cost
        self.render = render
        self.queue: deque[Session] = deque()
        self.sessions: dict[int, Session] = {}
        self.by_job: dict[JobId, Session] = {}
        self.by_id: dict[SessionId, Session] = {}
        self.drafters: dict[InstanceId, Drafter] = {}
        self.calibrations: dict[str, Calibration] = {}
        self.draining = False
        self._epochs = 0
        self._released: list[int] = []
        self._effects: list[Effect] = []

    # -- what comes in -------------------------------------------------------------------------

    def check(self, job: JobSubmitted, coming: int = 0) -> int:
        """Refuse a job that cannot be queued; returns how many wait before it, `coming` ones included."""
        if self.draining:
            raise TwdError(FailureCode.DRAINING, "this speculator is shutting down")
        waiting = len(self.queue) + coming
        if waiting >= self.limits.max_queue:
            raise TwdError(FailureCode.BUSY, f"{waiting} jobs are waiting for {self.identity.model} already")
        return waiting

    def submit(self, job: JobSubmitted, opening: Opening, now: float) -> None:
        """Queue a job whose prompt is tokenized; one that cannot fit ends here."""
        old = self.by_job.get(job.job)
        if old is not None:
            if old.job.attempt >= job.attempt:
                return
            self._drop(old)
        session = Session(job, opening, self.calibrations, now)
        self.by_job[job.job] = session
        self.by_id[session.id] = session
        problem = self._overflow(session)
        if problem:
            self._fail(session, Failure(code=FailureCode.CONTEXT_OVERFLOW, message=problem, field="max_tokens"), now)
            return
        ended = session.ended_before(self.limits.ctx_size) if job.resume else None
        if ended is not None:
            self._finish(session, ended, now)
            return
        self.queue.append(session)

    def _overflow(self, session: Session) -> str:
        size, prompt = self.limits.ctx_size, session.prompt_len
        if prompt >= size:
            return f"the prompt has {prompt} tokens and the context holds {size}"
        wanted = session.job.max_tokens
        if wanted is not None and prompt + wanted > size:
            return f"{prompt} prompt tokens and max_tokens {wanted} are more than the context of {size}"
        return ""

    def cancel(self, job: JobId, now: float, reason: str = "", attempts: int = 0) -> None:
        """The owner wants no more of this job, or of its attempts up to this one."""
        session = self.by_job.get(job)
        if session is not None and (not attempts or session.job.attempt <= attempts):
            self._fail(session, Failure(code=FailureCode.CANCELLED, message=reason or "cancelled"), now)

    def fail_all(self, failure: Failure, now: float) -> None:
        """The target is lost: every job ends with this failure."""
        for session in list(self.by_job.values()):
            self._fail(session, failure, now)

    def fail_job(self, job: JobId, failure: Failure, now: float) -> None:
        """One job cannot go on."""
        session = self.by_job.get(job)
        if session is not None:
            self._fail(session, failure, now)

    def attach(self, drafter: Drafter, now: float) -> None:
        """A drafter offers itself; it is told of the sessions that run."""
        known = self.drafters.get(drafter.name)
        if known is None:
            self.drafters[drafter.name] = drafter
        for session in self.sessions.values():
            if session.speculates:
                self._tell_open(session, now, again=True)

    def assess(self, name: InstanceId) -> None:
        """Tell whether a drafter pays here, from what was measured so far."""
        drafter, record = self.drafters.get(name), self.calibrations.get(name)
        if drafter is None:
            return
        agreement = record.agreement if record else 0.0
        compared = int(record.weight) if record else 0
        if 0 < compared < ENOUGH_TO_TELL:
            return
        credit = useful_credit(
            self.cost, agreement, drafter.token_ms, drafter.lead_ms, drafter.beside, self.limits.max_window
        )
        same_family = drafter.architecture == self.identity.vocab.architecture
        advice = "" if credit else _advice(drafter, agreement, compared, self.cost(1))
        self._tell(
            DrafterChecked(
                drafter=name,
                target=self.identity.model,
                same_vocab=not drafter.by_text,
                same_family=same_family,
                agreement=round(agreement, 4),
                compared=compared,
                pays=credit > 0,
                advice=advice,
            )
        )

    def detach(self, name: InstanceId) -> None:
        """A drafter left; what it guessed stays usable, nothing more is waited for."""
        self.drafters.pop(name, None)
        for session in self.sessions.values():
            session.links.pop(name, None)

    def draft(self, event: DraftProposed, tokens: Sequence[int], now: float) -> None:
        """Guesses came in; they are kept if they continue the text, and dropped otherwise."""
        session = self.by_id.get(event.session)
        drafter = self.drafters.get(event.drafter)
        if drafter is not None:
            drafter.observe_pace(len(event.tokens), event.draft_ms)
        if session is None or session.slot < 0 or not session.speculates:
            return
        depth = session.tree.depth(event.drafter)
        self._hang(session, event, tokens)
        if drafter is not None and drafter.name in session.links:
            self._hear(session, drafter, event, session.tree.depth(event.drafter) > depth, now)

    def _hang(self, session: Session, event: DraftProposed, tokens: Sequence[int]) -> None:
        at, prefix, confidence = event.at, event.prefix, list(event.confidence)
        size = self.identity.vocab.tokens
        tokens = list(takewhile(lambda token: token < size, tokens))  # one that the target lacks would fail its window
        if at <= len(session.tokens):
            known = session.place(at, prefix, tokens)
            if known is None:
                session.tree.stale += 1
                return
            at, prefix = len(session.tokens), session.hashes[-1]
            tokens, confidence = tokens[known:], confidence[known:]
        session.tree.add(event.drafter, at, prefix, tokens, confidence)

    def _hear(self, session: Session, drafter: Drafter, event: DraftProposed, fresh: bool, now: float) -> None:
        """Note when it came. Even guesses that came too late show that the drafter lives, and how fast it is."""
        link = session.links[drafter.name]
        link.late = 0
        if fresh:
            if link.heard_at <= link.told_at:
                spent = event.draft_ms or len(event.tokens) * drafter.token_ms
                drafter.observe_lead((now - link.told_at) * 1000, spent)
            link.heard_at = now
        if event.at + len(event.tokens) >= len(session.tokens):
            link.resting = not event.more

    # -- slots ---------------------------------------------------------------------------------

    def admit(self, now: float) -> list[Session]:
        """Sessions that should get a slot of the target now, oldest first."""
        self._expire(now)
        free = self.limits.slots - len(self.sessions) - len(self._released)
        return [self.queue.popleft() for _ in range(min(free, len(self.queue)))]

    def opened(self, session: Session, slot: int, cached: int, now: float) -> None:
        """The target gave a session a slot whose cache holds its first `cached` tokens."""
        session.slot, session.cached, session.fed = slot, min(cached, session.prompt_len), cached
        session.epoch = self._next_epoch()
        session.opened_at = session.spoke_at = session.accepted_at = now
        self.sessions[slot] = session
        self._tell(
            JobStarted(
                job=session.job.job,
                attempt=session.job.attempt,
                session=session.id,
                model=self.identity.model,
                prompt_tokens=session.prompt_len,
                cached_tokens=session.cached,
                seed=session.seed,
                fingerprint=self.identity.fingerprint,
            )
        )
        if session.job.max_tokens == 0:
            self._finish(session, FinishReason.LENGTH, now)
        elif session.speculates and self.drafters:
            self._tell_open(session, now)

    def _next_epoch(self) -> int:
        """Epochs are unique over all sessions: an answer to a session that is gone fits no other in its slot."""
        self._epochs += 1
        return self._epochs

    def _tell_open(self, session: Session, now: float, again: bool = False) -> None:
        if session.told_open and not again:
            return
        session.told_open = True
        for name, drafter in self.drafters.items():
            if name not in session.links:
                link = Link(credit=0, told_at=now, patient=bool(session.job.speculation.window))
                session.links[name] = link
                link.credit = self._credit(session, name, drafter, link)
        credit = max((link.credit for link in session.links.values()), default=self.limits.first_credit)
        self._tell(
            SessionOpened(
                job=session.job.job,
                session=session.id,
                model=self.identity.model,
                speculator=self.identity.speculator,
                node=self.identity.node,
                tokens=list(session.tokens),
                vocab=self.identity.vocab,
                sampling=session.job.sampling,
                seed=session.seed,
                credit=credit,
                text=self.render(session.tokens) if any(one.by_text for one in self.drafters.values()) else "",
            )
        )

    def released(self) -> list[int]:
        """Slots whose sessions ended; the target keeps their tokens for the next prompt."""
        slots, self._released = self._released, []
        return slots

    # -- the next pass -------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """Choose the windows of the next pass, or until when to wait."""
        plan = Plan()
        ready = [s for s in self.sessions.values() if not s.prefilling and self._may_fly(s)]
        self._plan_running(plan, ready, now)
        self._plan_prefill(plan, now)
        if not plan.windows:
            wakes = [s.deadline for s in self.by_job.values()]
            wakes += [plan.wake_at] if plan.wake_at is not None else []
            plan.wake_at = min(wakes, default=None)
        return plan

    def _may_fly(self, session: Session) -> bool:
        if not session.flights:
            return True
        return len(session.flights) < self.limits.in_flight and bool(session.flights[-1].nodes)

    def _plan_running(self, plan: Plan, ready: list[Session], now: float) -> None:
        if len(ready) > 1 and self.limits.in_flight == 1:
            self._plan_together(plan, ready)
            return
        for session in ready:
            nodes, parents, wake_at = self._choose(session, now, alone=len(self.sessions) == 1)
            if wake_at is not None:
                plan.wake_at = wake_at if plan.wake_at is None else min(wake_at, plan.wake_at)
            elif nodes or not session.flights:
                self._launch(plan, session, nodes, parents)

    def _plan_together(self, plan: Plan, ready: list[Session]) -> None:
        """Several sessions share the pass: windows of one width, so that the weights are read once."""
        limit = min(self.limits.max_window, max(0, 96 // len(ready) - 1))
        paths = [self._candidates(session, limit) for session in ready]
        chances = [[chance for _, chance in path] for path in paths]
        width = common_width(chances, self.cost, limit)
        for session, path in zip(ready, paths, strict=True):
            self._launch(plan, session, [node for node, _ in path[: width - 1]], None)

    def _candidates(self, session: Session, limit: int, start: Node | None = None) -> list[tuple[Node, float]]:
        limit = min(limit, session.remaining - 1, self.limits.ctx_size - len(session.tokens) - 1)
        if not session.speculates or limit <= 0 or not self.limits.can_rollback:
            return []
        if self.limits.ngram and start is None:
            tokens, confidence = session.ngram.propose(limit)
            if tokens:
                root = session.tree.root
                sure = [confidence] * len(tokens)
                session.tree.add(NGRAM, root.at + 1, root.hash, tokens, sure)
        if self.limits.tree and start is None and len(self.sessions) == 1:
            return session.tree.likeliest(session.beliefs.chance, limit, self.limits.branches)
        return session.tree.chain(session.beliefs.chance, limit, start)

    def _choose(self, session: Session, now: float, alone: bool) -> tuple[list[Node], list[int] | None, float | None]:
        """The guesses to check now, or until when to wait for more."""
        fixed = session.job.speculation.window
        start = session.flights[-1].nodes[-1] if session.flights else None
        path = self._candidates(session, fixed or self.limits.max_window, start)
        chances = [chance for _, chance in path]
        waited_ms = (now - session.accepted_at) * 1000
        if alone and not session.flights:
            wake_at = self._linger(session, chances, waited_ms, fixed, now)
            if wake_at is not None:
                return [], None, wake_at
        cut = len(path) if fixed else best_cut(chances, self.cost, waited_ms)[0]
        nodes = [node for node, _ in path[:cut]]
        if start is None and self.limits.tree and alone:
            nodes, parents = lay_out(nodes, session.tree.root)
            if any(parent != i for i, parent in enumerate(parents)):
                return nodes, [-1, *parents], None
        return nodes, None, None

    def _linger(
        self, session: Session, chances: Sequence[float], waited_ms: float, fixed: int, now: float
    ) -> float | None:
        for name, link in session.links.items():
            drafter = self.drafters.get(name)
            if drafter is None:
                continue
            depth = session.tree.depth(name)
            coming = link.expected(drafter, depth, session.beliefs.typical(name), now)
            if coming is None:
                self._note_lateness(link, drafter, depth, now)
                continue
            if fixed:
                wanted = len(chances) < fixed
            elif drafter.beside:  # its credit was set so that waiting for it pays; meanwhile the cores are its own
                wanted = sum(chances) < expected_tokens(coming.chance, coming.tokens)
            else:
                wanted = worth_waiting(chances, self.cost, waited_ms, coming)
            if wanted:
                return link.patience(drafter, depth)
        return None

    def _note_lateness(self, link: Link, drafter: Drafter, depth: int, now: float) -> None:
        overdue = not link.resting and depth < link.credit and now >= link.patience(drafter, depth)
        if overdue and link.heard_at <= link.told_at and link.late < 2:
            link.late += 1

    def _launch(self, plan: Plan, session: Session, nodes: list[Node], parents: list[int] | None) -> None:
        guesses = tuple(node.token for node in nodes)
        if session.flights:
            at, tokens = nodes[0].at, guesses
        else:
            at, tokens = len(session.tokens) - 1, (session.tokens[-1], *guesses)
        plan.windows.append(Window(session.slot, session.epoch, at, tokens, tuple(parents) if parents else None))
        plan.rows += len(tokens)
        session.flights.append(Flight(session.epoch, at, nodes, parents))
        session.tally.passes += 1

    def _plan_prefill(self, plan: Plan, now: float) -> None:
        """Read on in the prompts, oldest first, a bounded number of rows a pass."""
        budget = self.limits.prefill_rows - plan.rows
        for session in sorted(self.sessions.values(), key=lambda s: s.opened_at):
            if budget <= 0 or not session.prefilling or len(session.flights) >= self.limits.in_flight:
                continue
            count = min(budget, session.unfed + 1)
            last = count > session.unfed
            chunk = tuple(session.tokens[session.fed : session.fed + count])
            plan.windows.append(
                Window(session.slot, session.epoch, session.fed, chunk, None, picks=last, committed=count)
            )
            session.flights.append(Flight(session.epoch, session.fed, [], None, picks=last))
            session.fed += count if not last else session.unfed
            session.tally.passes += last
            plan.rows += count
            budget -= count

    # -- what came back ------------------------------------------------------------------------

    def verdicts(self, verdicts: Sequence[Verdict], now: float) -> None:
        """The target answered some windows."""
        for verdict in verdicts:
            session = self.sessions.get(verdict.slot)
            if session is None or verdict.epoch != session.epoch or not session.flights:
                continue
            self._judge(session, verdict, now)
        self._keep_alive(now)

    def _judge(self, session: Session, verdict: Verdict, now: float) -> None:
        flight = session.flights.popleft()
        if verdict.failure is not None:
            self._fail(session, verdict.failure, now)
            return
        if not flight.picks:
            return
        held = len(verdict.tokens) - 1
        guessed = [self._author(session, node) for node in flight.nodes]
        if flight.parents is None:
            session.tally.count(guessed[: held + 1], held)
        else:
            session.tally.count([guessed[i - 1] for i in verdict.path[1:]], held)
        if session.first_at < 0:
            session.first_at = now
        place = (len(session.tokens), session.generated)
        kept, text, end = session.take(verdict.tokens)
        session.fed = len(session.tokens) - 1
        session.accepted_at = now
        self._continue_or_void(session, verdict.tokens[-1])
        if len(session.tokens) >= self.limits.ctx_size and end is None:
            end = session.cut()
        if end is None:
            self._set_credits(session, now)
        accepted = session.accepted(*place, kept, text, verdict.logprobs[: len(kept)])
        drafter = guessed[0] if held else ""
        self._speak(session, replace(accepted, checked=len(flight.nodes), taken=held, drafter=drafter), now)
        if end is not None:
            self._finish(session, end, now)

    def _author(self, session: Session, node: Node) -> str:
        return node.best_vote(session.beliefs.chance)[0] if node.votes else NGRAM

    def _continue_or_void(self, session: Session, last: int) -> None:
        if not session.flights:
            return
        following = session.flights[0]
        if following.at == len(session.tokens) - 1 and following.nodes[0].token == last:
            following.nodes = following.nodes[1:]
            return
        session.epoch = self._next_epoch()
        session.flights.clear()

    def _speak(self, session: Session, event: TokensAccepted, now: float) -> None:
        session.spoke_at = now
        self._tell(event)

    def _set_credits(self, session: Session, now: float) -> None:
        """Tell each drafter how far to run, now that more is known of what its guesses are worth."""
        for name, link in session.links.items():
            drafter = self.drafters.get(name)
            if drafter is None:
                continue
            link.told_at, link.resting = now, False
            credit = self._credit(session, name, drafter, link)
            if credit != link.credit:
                link.credit = credit
                self._tell(DraftGranted(session=session.id, drafter=name, credit=credit))

    def _credit(self, session: Session, name: InstanceId, drafter: Drafter, link: Link) -> int:
        fixed = session.job.speculation.window
        if fixed:
            return fixed
        beside = drafter.beside and self.limits.shares_cores
        if beside and len(self.sessions) > 1:
            return 0  # sessions that share a pass use the cores better than a drafter would
        credit = 0
        for chance in (session.beliefs.typical(name), session.beliefs.hoped(name)):
            credit = credit or useful_credit(
                self.cost, chance, drafter.token_ms, drafter.lead_ms, beside, self.limits.max_window
            )
        if credit:
            link.probe_gap = 48
            link.probe_at = session.generated + link.probe_gap
            return credit
        if session.generated >= link.probe_at:  # a text can become easier: look again, ever more rarely
            link.probe_gap = min(1024, link.probe_gap * 2)
            link.probe_at = session.generated + link.probe_gap
            return 2
        return 0

    # -- ends ----------------------------------------------------------------------------------

    def _finish(self, session: Session, reason: FinishReason, now: float) -> None:
        self._drop(session)
        stop = session.text.hit.stop if session.text.hit is not None else ""
        self._tell(
            JobFinished(
                job=session.job.job,
                attempt=session.job.attempt,
                reason=reason,
                stats=session.stats(now),
                seed=session.seed,
                tail=session.tail,
                stop=stop,
                session=session.id,
            )
        )

    def _fail(self, session: Session, failure: Failure, now: float) -> None:
        self._drop(session)
        self._tell(
            JobFailed(
                job=session.job.job,
                attempt=session.job.attempt,
                failure=failure,
                stats=session.stats(now),
                session=session.id,
            )
        )

    def _drop(self, session: Session) -> None:
        self.by_job.pop(session.job.job, None)
        self.by_id.pop(session.id, None)
        if session in self.queue:
            self.queue.remove(session)
        if session.slot >= 0 and self.sessions.pop(session.slot, None) is not None:
            self._released.append(session.slot)
        if session.told_open:
            self._tell(SessionClosed(job=session.job.job, session=session.id))

    def _expire(self, now: float) -> None:
        for session in list(self.by_job.values()):
            if now >= session.deadline:
                seconds = session.job.deadline_ms / 1000
                message = f"the job was not done within {seconds:g} s"
                self._fail(session, Failure(code=FailureCode.DEADLINE, message=message), now)

    def tick(self, now: float) -> None:
        """Once a second: end what is overdue, show life where nothing was said for long."""
        self._expire(now)
        self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        for session in self.by_job.values():
            if now - session.spoke_at >= self.limits.keepalive_s:
                self._speak(session, session.accepted(len(session.tokens), session.generated, [], ""), now)

    # -- what goes out -------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        self._effects.append(Publish(event))

    def effects(self) -> list[Effect]:
        """What is to be told since the last call."""
        effects, self._effects = self._effects, []
        return effects

    @property
    def idle(self) -> bool:
        """Whether no job is in hand."""
        return not self.by_job


def _advice(drafter: Drafter, agreement: float, compared: int, step_ms: float) -> str:
    if not compared:
        return f"{drafter.model} sent no guess in time; look at its log and at the network between"
    return (
        f"{drafter.model} agrees with the target in {agreement:.0%} of {compared} tokens and needs "
        f"{drafter.token_ms:.1f} ms for one, the target {step_ms:.1f} ms: use a faster or a nearer relative"
    )
