"""Some sessions of the real core over a played pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from twd.bench.pipeline import TOKENS, PassInFlight, PipelineOutcome, PipelineSpec, SimulatedPipeline, TrueText
from twd.decoding.pipeline import PipelineState
from twd.kit.effects import Publish
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.session import PreparedRequest, Session
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.job import JobFinished, JobSubmitted, Prompt, TokensAccepted
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import prefix_hash

_DRAFTER = InstanceId("d")


@dataclass(slots=True)
class SimulatedDrafter:
    """How far a drafter that takes its time is with one text."""

    text: list[int] = field(default_factory=list)
    turn: int = 0
    """Raised whenever it begins anew; what it was about to say then is not said."""
    rests: bool = True


@dataclass
class SimulatedRing:
    """Some sessions of the real core over a played pipeline."""

    line: PipelineSpec
    wrong: float = 0.1
    sessions: int = 1
    tokens: int = 384
    drafts: bool = True
    in_flight: int = 32
    prompt: int = 1
    ahead: int = 96
    token_ms: float = 0.0
    """Of the drafter, which is told of every verdict; 0: all its guesses are there at once."""
    lead_ms: float = 1.0
    seed: int = 1
    pipe: PipelineState | None = None
    first_ms: float = 0.0
    """When the first token came."""
    times: dict[SessionId, list[float]] = field(default_factory=dict)
    """Of each session, at which second each token came."""

    def run(self) -> PipelineOutcome:
        """Play until all texts are whole."""
        self._truths = [TrueText(self.seed * 1000 + i, self.wrong) for i in range(self.sessions)]
        self._played = SimulatedPipeline(self.line, self._truths, self._answered)
        self._pipe = self.pipe or self.line.pipe()
        self._core = self._new_core()
        self._known: dict[int, int] = {}
        self._drafting: dict[int, SimulatedDrafter] = {}
        if self.token_ms:
            self._core.attach(AttachedDrafter(_DRAFTER, NodeId("b"), beside=False, token_ms=self.token_ms), 0.0)
        self._left = self.sessions
        self._alarm = -1.0
        self._began = 0.0
        self._submit()
        while self._left:
            self._turn()
            if not self._played.advance():
                raise RuntimeError("nothing is under way and nothing is planned")
        spent = self._played.now - self._began
        made = self.sessions * (self.tokens - 1)
        return PipelineOutcome(1000 * made / spent, self._played.computed / made)

    def _new_core(self) -> SpeculatorCore:
        vocab = VocabFingerprint(hash="v", tokens=TOKENS + 10)
        identity = SpeculatorIdentity(ModelId("target"), InstanceId("speculator"), NodeId("a"), vocab)
        limits = SpeculatorLimits(
            slots=self.sessions, ctx_size=1 << 20, max_window=32, in_flight=self.in_flight, ngram=False, prefill_rows=64
        )
        return SpeculatorCore(identity, limits, self._pipe.trip_ms, pipe=self._pipe)

    def _submit(self) -> None:
        for i, truth in enumerate(self._truths):
            job = JobSubmitted(
                job=JobId(f"job{i}"),
                model=ModelId("target"),
                owner=InstanceId("bench"),
                prompt=Prompt(text=""),
                max_tokens=self.tokens,
                deadline_ms=10**9,
            )
            tokens = [truth.token(at) for at in range(self.prompt)]
            opening = PreparedRequest(SessionId(f"s{i}"), tokens, truth, lambda _: b"", frozenset(), 0)
            self._core.submit(job, opening, 0.0)

    def _turn(self) -> None:
        now = self._played.now / 1000
        for slot, session in enumerate(self._core.admit(now)):
            self._core.opened(session, slot, 0, now)
        if self.drafts:
            self._propose(now)
        while True:
            plan = self._core.plan(now)
            if not plan.windows:
                break
            self._pipe.sent(plan.rows, now)
            self._played.send(plan.windows)
        if plan.wake_at is not None and plan.wake_at * 1000 != self._alarm:
            self._alarm = plan.wake_at * 1000
            self._played.at(max(self._alarm, self._played.now + 1e-6), lambda: None)

    def _propose(self, now: float) -> None:
        """Guesses up to `ahead` tokens beyond each text, at once or by and by."""
        for slot, session in self._core.sessions.items():
            at = len(session.tokens)
            if self._known.get(slot) == at:
                continue
            self._known[slot] = at
            if self.token_ms:
                self._hear(slot, session)
            else:
                self._say(session, session.tokens, [self._truths[slot].guess(at + i) for i in range(self.ahead)])

    def _say(self, session: Session, text: Sequence[int], tokens: list[int]) -> None:
        event = DraftProposed(
            session=session.id, drafter=_DRAFTER, at=len(text), prefix=prefix_hash(text), tokens=tokens
        )
        self._core.draft(event, tokens, self._played.now / 1000)

    def _hear(self, slot: int, session: Session) -> None:
        """The drafter goes on where it was, unless it was wrong or rests."""
        drafting = self._drafting.setdefault(slot, SimulatedDrafter())
        if drafting.text[: len(session.tokens)] != session.tokens:
            drafting.text, drafting.rests = list(session.tokens), True
        if drafting.rests:
            drafting.turn += 1
            self._draft_later(slot, session, drafting, self.lead_ms)

    def _draft_later(self, slot: int, session: Session, drafting: SimulatedDrafter, more_ms: float = 0.0) -> None:
        turn = drafting.turn
        drafting.rests = len(drafting.text) - len(session.tokens) >= session.links[_DRAFTER].credit

        def draft() -> None:
            if drafting.turn == turn and self._core.sessions.get(slot) is session:
                token = self._truths[slot].guess(len(drafting.text))
                self._say(session, drafting.text, [token])
                drafting.text.append(token)
                self._draft_later(slot, session, drafting)

        if not drafting.rests:
            self._played.at(self._played.now + more_ms + self.token_ms, draft)

    def _answered(self, one: PassInFlight) -> None:
        now = self._played.now / 1000
        self._pipe.answered()
        if len(one.verdicts) == len(one.windows):
            self._pipe.observe(one.rows, self._played.now - one.sent_ms, one.queued_ms, one.computed_ms)
        if not self._began and any(verdict.tokens for verdict in one.verdicts):
            self._began = self.first_ms = self._played.now
            self._played.computed = 0.0
        epochs = {slot: session.epoch for slot, session in self._core.sessions.items()}
        flying = {slot: list(session.inflight_windows)[1:] for slot, session in self._core.sessions.items()}
        self._core.verdicts(one.verdicts, now)
        for slot, session in self._core.sessions.items():
            if session.epoch != epochs[slot]:
                self._played.void(slot, session.epoch)
                self._voided([max(1, len(one.nodes)) for one in flying[slot]], now)
        for effect in self._core.effects():
            if isinstance(effect, Publish):
                self._note(effect.event, now)

    def _note(self, event: Event, now: float) -> None:
        match event:
            case TokensAccepted(session=session, tokens=tokens):
                self.times.setdefault(session, []).extend([now] * len(tokens))
            case JobFinished():
                self._left -= 1
            case _:
                return

    def _voided(self, rows: Sequence[int], now: float) -> None:
        if any(session.inflight_windows for session in self._core.sessions.values()):
            self._pipe.voided(rows, now)
        else:
            self._pipe.emptied(now)
