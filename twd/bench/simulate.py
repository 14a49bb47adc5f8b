"""Runs the real decision code of speculator and drafter in virtual time: predicts what a drafter would bring.

Only the target and the draft model are replaced: by their costs and a chance of acceptance.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twd.bench.analytic import Cost, SpeculationSetting
from twd.decoding.window import VerifyResult, Window
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules, DraftState, Guess
from twd.kit.effects import Publish
from twd.speculator.core.batch_planning import NextStep
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.session import PreparedRequest
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftGranted, DraftProposed, SessionClosed, SessionOpened
from twd.wire.job import JobFailed, JobFinished, JobSubmitted, Prompt, Speculation, TokensAccepted
from twd.wire.model import VocabFingerprint

_TOKENS = 30_000
_WRONG = 30_001
_NAME = InstanceId("drafter")


class _Truth:
    """The target's text, and which of its tokens the drafter predicts."""

    def __init__(self, acceptance: float, rng: random.Random) -> None:
        self._rng = rng
        self._acceptance = acceptance
        self._tokens: list[int] = []
        self._guessed: list[bool] = []

    def token(self, at: int) -> int:
        self._reach(at)
        return self._tokens[at]

    def guessed(self, at: int) -> bool:
        self._reach(at)
        return self._guessed[at]

    def _reach(self, at: int) -> None:
        while len(self._tokens) <= at:
            self._tokens.append(self._rng.randrange(_TOKENS))
            self._guessed.append(self._rng.random() < self._acceptance)

    def pick(self, logits: object, history: Sequence[int]) -> int:
        return self.token(len(history))


@dataclass
class Simulation:
    """One session, one target, one drafter, and the network between them."""

    setting: SpeculationSetting
    seed: int = 1
    tokens: int = 512
    beside: bool = False
    window: int = 0
    drafts: bool = True
    second: float = 0.5
    """Chance that the drafter's second choice is right where its first one is wrong."""
    believed: Cost | None = None
    """The target's cost that the speculator assumes, if that is wrong."""
    hindrance: float = 1.0
    """The factor by which passes take longer while the drafter may draft: hidden contention."""
    now: float = 0.0
    _mail: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0
    _target_ms: float | None = None
    _drafter_ms: float | None = None
    _plan: NextStep = field(default_factory=NextStep)
    _wake: float | None = None
    _steps: list[tuple[DraftState, Window]] = field(default_factory=list)
    _inbox: list[Event] = field(default_factory=list)
    _done: bool = False

    def __post_init__(self) -> None:
        self._truth = _Truth(self.setting.acceptance, random.Random(self.seed))
        self._dice = random.Random(self.seed + 1)
        vocab = VocabFingerprint(hash="v", tokens=_TOKENS + 10)
        identity = SpeculatorIdentity(ModelId("target"), InstanceId("speculator"), NodeId("a"), vocab)
        limits = SpeculatorLimits(slots=1, ctx_size=1 << 20, max_window=self.setting.window_max, ngram=False)
        self._core = SpeculatorCore(identity, limits, self.believed or self.setting.cost)
        self._drafter = DrafterCore(_NAME, slots=1, ctx_size=1 << 20)
        self._drafter.token_ms = self.setting.token_ms

    def run(self) -> float:
        """Simulate one answer; returns tokens per ms."""
        if self.drafts:
            node = NodeId("a" if self.beside else "b")
            self._core.attach(AttachedDrafter(_NAME, node, self.beside, token_ms=self.setting.token_ms), 0.0)
        job = JobSubmitted(
            job=JobId("job"),
            model=ModelId("target"),
            owner=InstanceId("bench"),
            prompt=Prompt(text=""),
            max_tokens=self.tokens,
            deadline_ms=10**9,
            speculation=Speculation(enabled=self.drafts, window=self.window),
        )
        opening = PreparedRequest(
            SessionId("session"), [self._truth.token(0)], self._truth, lambda _: b"", frozenset(), 0
        )
        self._core.submit(job, opening, 0.0)
        while not self._done:
            self._start_work()
            self._advance()
        return self.tokens / self.now

    def _start_work(self) -> None:
        if self._target_ms is None:
            self._start_pass()
        if self._drafter_ms is None and self.drafts:
            self._start_draft()

    def _start_pass(self) -> None:
        for session in self._core.admit(self.now / 1000):
            self._core.opened(session, 0, 0, self.now / 1000)
        self._plan = self._core.plan(self.now / 1000)
        self._send_told()
        self._wake = None
        if self._plan.windows:
            self._target_ms = self.setting.cost(self._plan.rows)
        elif self._plan.wake_at is not None:
            self._wake = max(self._plan.wake_at * 1000, self.now + 0.01)

    def _start_draft(self) -> None:
        inbox, self._inbox = self._inbox, []
        for event in inbox:
            self._hear(event)
        for draft in self._drafter.waiting():
            self._drafter.opened(draft, 0, 0)
        self._steps = self._drafter.plan()
        for proposal in self._drafter.proposals():
            self._post(lambda proposal=proposal: self._propose(proposal))  # type: ignore[misc]
        if self._steps:
            self._drafter_ms = self.setting.token_ms

    def _advance(self) -> None:
        """Advance to the next event; work on shared cores runs at half speed."""
        both = self._target_ms is not None and self._drafter_ms is not None
        slow = 2.0 if both and self.beside else 1.0
        hindered = slow * (self.hindrance if self._is_drafting else 1.0)
        times = [hindered * self._target_ms] if self._target_ms is not None else []
        times += [slow * self._drafter_ms] if self._drafter_ms is not None else []
        times += [self._mail[0][0] - self.now] if self._mail else []
        times += [self._wake - self.now] if self._wake is not None and self._target_ms is None else []
        step = max(0.0, min(times))
        self.now += step
        if self._target_ms is not None:
            self._target_ms -= step / hindered
        if self._drafter_ms is not None:
            self._drafter_ms -= step / slow
        self._happen()

    @property
    def _is_drafting(self) -> bool:
        return any(draft.credit for draft in self._drafter.drafts.values())

    def _happen(self) -> None:
        while self._mail and self._mail[0][0] <= self.now + 1e-9:
            heapq.heappop(self._mail)[2]()
        if self._target_ms is not None and self._target_ms <= 1e-9:
            self._target_ms = None
            self._core.verdicts([self._judge(window) for window in self._plan.windows], self.now / 1000)
            self._send_told()
        if self._drafter_ms is not None and self._drafter_ms <= 1e-9:
            self._drafter_ms = None
            for draft, window in self._steps:
                self._guess(draft, window)

    def _judge(self, window: Window) -> VerifyResult:
        verdict = VerifyResult(window.slot, window.epoch, window.at, path=list(range(window.committed)))
        place = window.committed - 1
        while window.picks:
            token = self._truth.token(window.at + place + 1)
            verdict.tokens.append(token)
            place += 1
            if place >= len(window.tokens) or window.tokens[place] != token:
                break
            verdict.path.append(place)
        return verdict

    def _guess(self, draft: DraftState, window: Window) -> None:
        if draft.session in self._drafter.drafts:
            guesses = [self._what(draft, window.at + len(window.tokens))] if window.picks else []
            self._drafter.computed(draft, window, guesses, self.setting.token_ms)

    def _what(self, draft: DraftState, at: int) -> Guess:
        """Return the draft for a position: right by chance while its path is right; its second choice, too."""
        known = len(draft.accepted)
        on_track = all(token == self._truth.token(known + i) for i, token in enumerate(draft.path))
        right = on_track and self._truth.guessed(at)
        second = on_track and not right and self._dice.random() < self.second
        confidence = self._confidence(right)
        return Guess(
            token=self._truth.token(at) if right else _WRONG,
            confidence=confidence,
            other=self._truth.token(at) if second else _WRONG + 1,
            other_confidence=0.6 * (1.0 - confidence),
        )

    def _confidence(self, right: bool) -> float:
        """Return the confidence of a draft: somewhat higher where it is right."""
        a = self.setting.acceptance
        return min(1.0, max(0.05, self._dice.gauss(a + (0.03 if right else -0.15) * (1 - a) * 4, 0.1)))

    def _send_told(self) -> None:
        for effect in self._core.effects():
            if isinstance(effect, Publish):
                event = effect.event
                if isinstance(event, JobFinished | JobFailed):
                    self._done = True
                self._post(lambda event=event: self._inbox.append(event))  # type: ignore[misc]

    def _post(self, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._mail, (self.now + self.setting.round_trip_ms / 2, self._count, action))

    def _propose(self, proposal: DraftProposed) -> None:
        self._core.draft(proposal, proposal.tokens, self.now / 1000)

    def _hear(self, event: Event) -> None:
        match event:
            case SessionOpened():
                self._drafter.open(event, DraftRules(self._truth), self.beside)
            case TokensAccepted():
                self._drafter.accept(event.job, event.at, event.tokens)
            case DraftGranted():
                self._drafter.grant(event)
            case SessionClosed():
                self._drafter.close(event.session)
            case _:
                pass
