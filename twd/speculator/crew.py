"""The drafters of one speculator: what is known of them, and how far each may run in each session."""

from twd.speculator.acceptance import Calibration
from twd.speculator.bounds import Identity, Limits
from twd.speculator.links import WARMING, Drafter, Link
from twd.speculator.rates import Race
from twd.speculator.session import Session
from twd.speculator.window import Cost, useful_credit
from twd.wire.base import InstanceId
from twd.wire.draft import DrafterChecked, DraftGranted, DraftProposed

_LOOK_AGAIN, _LOOK_AGAIN_MAX = 48, 1024
"""Tokens after which a drafter that did not pay is tried again, and the longest such pause."""
ENOUGH_TO_TELL = 16
"""So many guesses must have been checked before a drafter is judged."""


class Crew:
    """Everybody who drafts for this target."""

    def __init__(self, identity: Identity, limits: Limits, cost: Cost, sessions: dict[int, Session]) -> None:
        self.identity = identity
        self.limits = limits
        self.cost = cost
        self.sessions = sessions
        self.drafters: dict[InstanceId, Drafter] = {}
        self.calibrations: dict[str, Calibration] = {}
        self.race = Race()

    @property
    def _ahead(self) -> int:
        return self.limits.ahead or self.limits.max_window

    @property
    def wants_text(self) -> bool:
        """Whether somebody drafts by text."""
        return any(drafter.by_text for drafter in self.drafters.values())

    def assess(self, name: InstanceId) -> DrafterChecked | None:
        """Say whether a drafter pays here, from what was measured so far."""
        drafter, record = self.drafters.get(name), self.calibrations.get(name)
        if drafter is None:
            return None
        agreement = record.agreement if record else 0.0
        compared = int(record.weight) if record else 0
        if 0 < compared < ENOUGH_TO_TELL:
            return None
        credit = useful_credit(self.cost, agreement, drafter.token_ms, drafter.lead_ms, drafter.beside, self._ahead)
        same_family = drafter.architecture == self.identity.vocab.architecture
        advice = "" if credit else _advice(drafter, agreement, compared, self.cost(1))
        return DrafterChecked(
            drafter=name,
            target=self.identity.model,
            same_vocab=not drafter.by_text,
            same_family=same_family,
            agreement=round(agreement, 4),
            compared=compared,
            pays=credit > 0,
            advice=advice,
        )

    def detach(self, name: InstanceId) -> None:
        """A drafter left; what it guessed stays usable, nothing more is waited for."""
        self.drafters.pop(name, None)
        for session in self.sessions.values():
            session.links.pop(name, None)

    def join(self, session: Session, now: float) -> int:
        """Link every drafter to a session; returns how far they may run at first."""
        for name, drafter in self.drafters.items():
            if name not in session.links:
                link = Link(credit=0, told_at=now, patient=bool(session.job.speculation.window))
                session.links[name] = link
                link.credit = self._credit(session, name, drafter, link)
        return max((link.credit for link in session.links.values()), default=self.limits.first_credit)

    def hear(self, session: Session, event: DraftProposed, fresh: bool, now: float) -> None:
        """Note when it came. Even guesses that came too late show that the drafter lives, and how fast it is."""
        drafter, link = self.drafters.get(event.drafter), session.links.get(event.drafter)
        if drafter is None or link is None:
            return
        link.late = 0
        if not drafter.beside or (event.at >= len(session.tokens) and not self._computing):
            drafter.observe_pace(len(event.tokens), event.draft_ms)
        if fresh:
            link.warming = min(link.warming, 1)
            if link.heard_at <= link.told_at:
                spent = event.draft_ms or len(event.tokens) * drafter.token_ms
                drafter.observe_lead((now - link.told_at) * 1000, spent)
            link.heard_at = now
        if event.at >= len(session.tokens):  # else it did not know yet what was accepted meanwhile, and will go on
            link.resting = not event.more

    @property
    def _computing(self) -> bool:
        """Whether a pass is under way: who drafts on the same cores meanwhile is slower than it would be alone."""
        return any(session.flights for session in self.sessions.values())

    def measure(self, session: Session, tokens: int, ms: float) -> None:
        """A cycle of the only session ended: it was quick or slow, with drafters on the same cores or without."""
        beside = [name for name, drafter in self.drafters.items() if drafter.beside]
        if beside and len(self.sessions) == 1 and not session.job.speculation.window and session.speculates:
            drafting = [link for name in beside if (link := session.links.get(name)) and link.credit]
            warming = [link for link in drafting if link.warming]
            for link in warming:
                link.warming -= 1
            if not warming:
                self.race.add(bool(drafting), tokens, ms)

    def grant(self, session: Session, now: float) -> list[DraftGranted]:
        """How far each drafter may run, now that more is known of what its guesses are worth; only what is new."""
        grants = []
        for name, link in session.links.items():
            drafter = self.drafters.get(name)
            if drafter is None:
                continue
            link.told_at, link.resting = now, False
            credit = self._credit(session, name, drafter, link)
            if credit != link.credit:
                link.warming = link.warming if link.credit else WARMING
                link.credit = credit
                grants.append(DraftGranted(session=session.id, drafter=name, credit=credit))
        return grants

    def _credit(self, session: Session, name: InstanceId, drafter: Drafter, link: Link) -> int:
        fixed = session.job.speculation.window
        if fixed:
            return fixed
        beside = drafter.beside
        if beside and len(self.sessions) > 1:
            return 0  # sessions that share a pass use the cores better than a drafter would
        credit = 0
        for chance in (session.beliefs.typical(name), session.beliefs.hoped(name)):
            credit = credit or useful_credit(self.cost, chance, drafter.token_ms, drafter.lead_ms, beside, self._ahead)
        if credit and beside and self.race.wants_plain():
            return 0
        if credit and not (beside and self.race.lost):
            if not beside or self.race.drafted.known:
                link.probe_gap = _LOOK_AGAIN
            link.probe_at = session.generated + link.probe_gap
            return credit
        if session.generated >= link.probe_at:  # a text can become easier, cores free: look again, ever more rarely
            link.probe_gap = min(_LOOK_AGAIN_MAX, link.probe_gap * 2)
            link.probe_at = session.generated + link.probe_gap
            if credit:
                self.race.try_again()
            return credit or 2
        return 0


def _advice(drafter: Drafter, agreement: float, compared: int, step_ms: float) -> str:
    if not compared:
        return f"{drafter.model} sent no guess in time; look at its log and at the network between"
    return (
        f"{drafter.model} agrees with the target in {agreement:.0%} of {compared} tokens and needs "
        f"{drafter.token_ms:.1f} ms for one, the target {step_ms:.1f} ms: use a faster or a nearer relative"
    )
