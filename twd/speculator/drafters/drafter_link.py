"""The speculator's view of drafters: their names, their measured speed, and what each does in each session."""

from dataclasses import dataclass

from twd.speculator.core.window_size import ExpectedDrafts
from twd.wire.base import InstanceId, NodeId

_SMOOTH = 0.2
_QUICKER, _SLOWER = 0.5, 0.1
"""Smoothing of the pace, for a faster and for a slower measurement. Anything can delay a drafter, but one fast draft
shows what it can do. Too high an estimate costs little, because the real rate is measured too."""
_SLACK_MS = 3.0
_FLOOR_S = 0.05
_PATIENCE_MAX_S, _READING_MAX_S = 2.0, 10.0
WARMING = 3
PROBE_GAP = 48
"""Tokens after which a drafter that did not pay is tried again; the gap doubles after each try."""
LATE = 2
"""After drafts were missing this many times in a row, they are awaited no more."""
_PACE_MS_MAX = 2000.0
"""Most milliseconds for a token that a drafter is believed: a false value must not delay the target."""


@dataclass(slots=True)
class AttachedDrafter:
    """One attached drafter and its measured pace."""

    name: InstanceId
    node: NodeId
    beside: bool
    """True: it computes on the target's device, so its time is the target's time."""
    yields: bool = False
    """True: it shares cores with stages, and drafts while they do not compute."""
    model: str = ""
    architecture: str = ""
    by_text: bool = False
    token_ms: float = 5.0
    lead_ms: float = 1.0
    """Milliseconds from sending it the accepted tokens until its next drafts arrive, without the drafting itself."""
    read_ms: float = 0.5
    """Milliseconds to read one token of a prompt."""
    silent: bool = False
    """True: its drafts were awaited in vain, and nothing came from it since."""
    observed: bool = False
    """Whether its pace was measured in drafts; before, it is only what the drafter told, or worked out by size."""
    plan: int = 0
    """The number of the core plan under which its pace was measured; it rises when its share of the cores changes."""
    pays: bool | None = None
    """Whether it was last told that it pays; None: it was told nothing yet."""
    turns: int = 0
    """How often this answer was reversed."""
    settled: int = 0
    """How many more texts must end before the answer may be reversed."""

    def __post_init__(self) -> None:
        self.token_ms = min(self.token_ms, _PACE_MS_MAX)

    def begins_anew(self, told: "AttachedDrafter") -> None:
        """Forget the measured pace, because other processes now share its cores."""
        self.plan, self.yields = told.plan, told.yields
        self.token_ms, self.observed, self.silent = told.token_ms, False, False

    def observe_pace(self, tokens: int, draft_ms: float) -> None:
        """Learn the pace from the time that it reports for these tokens. The first report counts alone."""
        if tokens > 0 and draft_ms > 0:
            change = min(draft_ms / tokens, _PACE_MS_MAX) - self.token_ms
            smooth = _SLOWER if change > 0 else _QUICKER
            self.token_ms += (smooth if self.observed else 1.0) * change
            self.observed = True

    def learns(self, pays: bool) -> bool:
        """Record whether it pays. Returns whether to tell it: the answer is new, and the last reversal is long enough
        ago. After each reversal the next one must wait for twice as many texts."""
        if pays == self.pays or self.settled:
            return False
        self.turns += self.pays is not None
        self.pays, self.settled = pays, 2**self.turns if self.turns else 0
        return True

    def observe_reading(self, tokens: int, spent_ms: float) -> None:
        """Learn the reading pace: it took `spent_ms` to read these tokens while the target waited."""
        if tokens > 0:
            self.read_ms += _SMOOTH * (min(max(0.0, spent_ms) / tokens, _PACE_MS_MAX) - self.read_ms)

    def observe_lead(self, waited_ms: float, drafted_ms: float) -> None:
        """Learn the delay of its first drafts after an acceptance."""
        lead = max(0.0, waited_ms - drafted_ms)
        self.lead_ms += _SMOOTH * (min(lead, _PACE_MS_MAX) - self.lead_ms)


@dataclass(slots=True)
class DrafterLink:
    """The state of one drafter in one session."""

    credit: int
    told_at: float
    """When the accepted tokens were last sent to it."""
    heard_at: float = -1.0
    resting: bool = False
    late: int = 0
    tried: int = 0
    """Cycles in which its drafts arrived."""
    probe_gap: int = PROBE_GAP
    probe_at: int = 0
    useful: int | None = 0
    """Its credit by the last prediction; None: it must rest, so that others can compute."""
    look_at: int = 0
    """It rests because it does not pay; that is computed again when this many tokens are made."""
    warming: int = WARMING
    """Cycles that are not measured yet: a drafter that starts reads the text first, which does not show its pace."""
    unread: int = 0
    """How many tokens it must read before its first draft, as far as known; 0: a draft has arrived."""
    awaited: bool = True
    """Where it reads on the target's own cores: whether the target waits for it meanwhile."""
    floor: float = 0.0
    """How sure its drafts must be, as it was last told."""
    patient: bool = False
    """True: its drafts are always awaited, because the job asks for windows of a fixed size."""

    def try_again(self) -> None:
        """Try the drafter again soon: the reason for its rest may be over."""
        self.probe_gap, self.probe_at, self.look_at, self.late = PROBE_GAP, 0, 0, 0

    def ignored(self, generated: int) -> bool:
        """Returns whether it rests for now: drafts that it sends anyway are dropped."""
        return not self.credit and generated < self.look_at

    def expected(self, drafter: AttachedDrafter, depth: int, chance: float, now: float) -> ExpectedDrafts | None:
        """Returns the drafts that it should bring next; None: there is nothing to wait for."""
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
        """Returns whether it reads the text while the target goes on without it."""
        return drafter.beside and self.unread > 0 and not self.awaited and not self.patient

    def due(self, drafter: AttachedDrafter, depth: int) -> float:
        """Returns when its next drafts should arrive."""
        tokens = max(1, self.credit - depth) if drafter.beside else 1
        if self.heard_at > self.told_at:
            return self.heard_at + tokens * drafter.token_ms / 1000
        return self.told_at + (drafter.lead_ms + tokens * drafter.token_ms) / 1000

    def patience(self, drafter: AttachedDrafter, depth: int) -> float:
        """Returns until when to wait for useful drafts. A slow trickle of drafts cannot extend this without limit."""
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
