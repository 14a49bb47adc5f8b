"""Drafters as the speculator sees them: who they are, how fast they are, what they were told."""

from dataclasses import dataclass

from twd.speculator.core.window_size import ExpectedDrafts
from twd.wire.base import InstanceId, NodeId

_SMOOTH = 0.2
_QUICKER, _SLOWER = 0.5, 0.1
"""A drafter can be held up by anything; that it was quick once shows what it can do. Believing too well of it costs
little: what really comes out is measured too."""
_SLACK_MS = 3.0
_FLOOR_S = 0.05
_PATIENCE_MAX_S, _READING_MAX_S = 2.0, 10.0
WARMING = 3
PROBE_GAP = 48
"""Tokens after which a drafter that did not pay is tried again; longer after each try."""
LATE = 2
"""Guesses that did not come so many times in a row are waited for no more."""
_PACE_MS_MAX = 2000.0
"""What drafters say of themselves is believed up to here: a pace that was made up must not hold the target up."""


@dataclass(slots=True)
class AttachedDrafter:
    """One attached drafter and its measured pace."""

    name: InstanceId
    node: NodeId
    beside: bool
    """It computes on the device that the target computes on: its time is the target's time."""
    model: str = ""
    architecture: str = ""
    by_text: bool = False
    token_ms: float = 5.0
    lead_ms: float = 1.0
    """From telling it what was accepted to hearing its next guesses, less the drafting itself."""
    read_ms: float = 0.5
    """For one token of a prompt."""
    silent: bool = False
    """It did not come when it was waited for, and was not heard of since."""
    plan: int = 0
    """How often its share of the cores had changed when its pace was measured."""
    pays: bool | None = None
    """What it was told of that; None: nothing yet."""
    turns: int = 0
    """How often it was told the contrary of before."""
    settled: int = 0
    """So many texts more must end before it may be told the contrary."""

    def __post_init__(self) -> None:
        self.token_ms = min(self.token_ms, _PACE_MS_MAX)

    def begins_anew(self, told: "AttachedDrafter") -> None:
        """Others compute beside it than before: what was measured is forgotten."""
        self.plan, self.token_ms, self.silent = told.plan, told.token_ms, False

    def observe_pace(self, tokens: int, draft_ms: float) -> None:
        """It told how long these tokens took."""
        if tokens > 0 and draft_ms > 0:
            change = min(draft_ms / tokens, _PACE_MS_MAX) - self.token_ms
            self.token_ms += (_SLOWER if change > 0 else _QUICKER) * change

    def learns(self, pays: bool) -> bool:
        """Whether to tell it so: when it is new, and the oftener it changed, the more rarely it may change again."""
        if pays == self.pays or self.settled:
            return False
        self.turns += self.pays is not None
        self.pays, self.settled = pays, 2**self.turns if self.turns else 0
        return True

    def observe_reading(self, tokens: int, spent_ms: float) -> None:
        """It took so long until it had read these tokens, while the target waited for it."""
        if tokens > 0:
            self.read_ms += _SMOOTH * (min(max(0.0, spent_ms) / tokens, _PACE_MS_MAX) - self.read_ms)

    def observe_lead(self, waited_ms: float, drafted_ms: float) -> None:
        """Its first guesses after an acceptance came this much later."""
        lead = max(0.0, waited_ms - drafted_ms)
        self.lead_ms += _SMOOTH * (min(lead, _PACE_MS_MAX) - self.lead_ms)


@dataclass(slots=True)
class DrafterLink:
    """One drafter's part in one session."""

    credit: int
    told_at: float
    """When it last heard what is accepted."""
    heard_at: float = -1.0
    resting: bool = False
    late: int = 0
    tried: int = 0
    """Cycles in which it was heard."""
    probe_gap: int = PROBE_GAP
    probe_at: int = 0
    useful: int | None = 0
    """How far it should run by what was predicted last; None: it gives way to others."""
    look_at: int = 0
    """It rests since it does not pay, and that is worked out anew when so many tokens are made."""
    warming: int = WARMING
    """Cycles that do not count yet: a drafter that starts reads the text first, which is no measure of its pace."""
    unread: int = 0
    """So many tokens it has to read before its first guess, as far as is known; 0: it was heard."""
    awaited: bool = True
    """Where it reads on the target's own cores: whether that is worth a pause of the text."""
    patient: bool = False
    """Its guesses are waited for in any case: windows of a fixed size."""

    def try_again(self) -> None:
        """Whatever made it rest may be over."""
        self.probe_gap, self.probe_at, self.look_at, self.late = PROBE_GAP, 0, 0, 0

    def ignored(self, generated: int) -> bool:
        """Whether it rests for a while: what it sends all the same is not even looked at."""
        return not self.credit and generated < self.look_at

    def expected(self, drafter: AttachedDrafter, depth: int, chance: float, now: float) -> ExpectedDrafts | None:
        """What it will bring next, or None when nothing is to be waited for."""
        coming = self.credit - depth
        if self.resting or self.reads_aside(drafter) or coming <= 0 or self.late >= LATE:
            return None
        due = self.due(drafter, depth)
        if now >= self.patience(drafter, depth):
            return None
        first_ms = max(0.0, (due - now) * 1000)
        if drafter.beside:
            return ExpectedDrafts(first_ms, 0.0, chance, coming)
        return ExpectedDrafts(first_ms, drafter.token_ms, chance, coming)

    def reads_aside(self, drafter: AttachedDrafter) -> bool:
        """Whether it reads the text while the target goes on without it."""
        return drafter.beside and self.unread > 0 and not self.awaited and not self.patient

    def due(self, drafter: AttachedDrafter, depth: int) -> float:
        """When its next guesses should be here."""
        tokens = max(1, self.credit - depth) if drafter.beside else 1
        if self.heard_at > self.told_at:
            return self.heard_at + tokens * drafter.token_ms / 1000
        return self.told_at + (drafter.lead_ms + tokens * drafter.token_ms) / 1000

    def patience(self, drafter: AttachedDrafter, depth: int) -> float:
        """Until when to wait for guesses that are worth waiting for; a trickle does not extend it for ever."""
        longest = (
            _PATIENCE_MAX_S if not drafter.beside else max(_PATIENCE_MAX_S, 2 * self.unread * drafter.read_ms / 1000)
        )
        return min(self._patience(drafter, depth), self.told_at + min(longest, _READING_MAX_S))

    def _patience(self, drafter: AttachedDrafter, depth: int) -> float:
        whole_run = (drafter.lead_ms + self.credit * drafter.token_ms) / 1000
        if self.patient or drafter.beside:
            reading = 2 * self.unread * drafter.read_ms / 1000
            return self.told_at + reading + max(_FLOOR_S, 4 * whole_run)
        slack = _slack_s(drafter)
        return min(self.due(drafter, depth) + slack, self.told_at + 1.5 * whole_run + slack)


def _slack_s(drafter: AttachedDrafter) -> float:
    return (_SLACK_MS + 2 * drafter.token_ms + drafter.lead_ms) / 1000
