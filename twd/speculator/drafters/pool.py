"""The drafters of one speculator: what is known of them, and how far each may run in each session."""

from collections.abc import Iterator, Sequence

from twd.drafting.calibration import Calibration
from twd.drafting.window_value import Cost
from twd.speculator.core.ab_test import SpeculationABTest
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.session import OWN, Session
from twd.speculator.core.window_size import predicted_rate, useful_credit
from twd.speculator.drafters.drafter_link import LATE, PROBE_GAP, WARMING, AttachedDrafter, DrafterLink
from twd.wire.base import InstanceId
from twd.wire.draft import DrafterChecked, DraftGranted, DraftProposed

_LOOK_AGAIN_MAX = 1024
"""The longest pause, in tokens, before a drafter that did not pay is tried again."""
STALE_S = 60.0
"""After so long without a text, drafters that lost are tried again at once: other things may run by now."""
_LOOK_EVERY = 8
"""Tokens after which it is worked out anew whether somebody pays who rests, where little can change meanwhile."""
_HOPELESS = 0.15
"""Of guesses that hold more seldom: no other cost, and no other pace, makes them pay soon."""
_SETTLE_MS_MAX = 200.0
"""However slow and far drafters are, what comes later after they were told to rest counts as plain."""
WINDOWS_AHEAD = 2
"""One window is checked while the next is drafted."""
RECORDS_MAX = 256
"""Names are many where drafters restart, or anybody guesses."""
ANSWER_TOKENS = 64.0
"""So long answers are taken to be before any has ended."""
_ANSWER_WEIGHT = 0.2
ENOUGH_TO_TELL = 16
"""So many guesses must have been checked before a drafter is judged."""


class DrafterPool:
    """Everybody who drafts for this target."""

    def __init__(
        self, identity: SpeculatorIdentity, limits: SpeculatorLimits, cost: Cost, sessions: dict[int, Session]
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.cost = cost
        self.sessions = sessions
        self.drafters: dict[InstanceId, AttachedDrafter] = {}
        self.calibrations: dict[str, Calibration] = {}
        self.race, self.race_by_grammar = SpeculationABTest(), SpeculationABTest.in_bursts()
        self._answer_tokens = ANSWER_TOKENS
        """How long answers usually are."""
        self._joined_at = 0.0
        """When the last session began."""
        self._stirred_ms = 0.0
        """So long drafters may go on after they were told to rest."""

    @property
    def wants_text(self) -> bool:
        """Whether somebody drafts by text."""
        return any(drafter.by_text for drafter in self.drafters.values())

    def assess(self, name: InstanceId) -> DrafterChecked | None:
        """Say whether a drafter pays here, from what was measured so far, and if that is new."""
        drafter, record = self.drafters.get(name), self.calibrations.get(name)
        if drafter is None:
            return None
        agreement = record.agreement if record else 0.0
        compared = int(record.weight) if record else 0
        if 0 < compared < ENOUGH_TO_TELL:
            return None
        pays = self._pays(drafter, agreement) > 0
        if not drafter.learns(pays):
            return None
        same_family = drafter.architecture == self.identity.vocab.architecture
        advice = "" if pays else _advice(drafter, agreement, compared, self.cost(1))
        return DrafterChecked(
            drafter=name,
            target=self.identity.model,
            same_vocab=not drafter.by_text,
            same_family=same_family,
            agreement=round(agreement, 4),
            compared=compared,
            pays=pays,
            advice=advice,
        )

    def text_ended(self, tokens: int) -> list[DrafterChecked]:
        """A text of so many tokens ended: what real work has shown of drafters, where that is new."""
        self._answer_tokens += _ANSWER_WEIGHT * (tokens - self._answer_tokens)
        for drafter in self.drafters.values():
            drafter.settled = max(0, drafter.settled - 1)
        seen = {name for name, record in self.calibrations.items() if record.weight >= ENOUGH_TO_TELL}
        told = [self.assess(name) for name in self.drafters if name in seen]
        return [verdict for verdict in told if verdict is not None]

    def attach(self, drafter: AttachedDrafter) -> None:
        """A drafter offers itself, for the first time or again; with another share of its cores it counts as new."""
        known = self.drafters.setdefault(drafter.name, drafter)
        if known is drafter:
            self._race_anew()
        elif known.plan != drafter.plan:
            known.begins_anew(drafter)
            for link in (session.links.get(drafter.name) for session in self.sessions.values()):
                if link is not None:
                    link.try_again()
            self._race_anew()

    def _race_anew(self) -> None:
        self.race.try_again()
        self.race_by_grammar.try_again()

    def detach(self, name: InstanceId) -> None:
        """A drafter left; what it guessed stays usable, nothing more is waited for."""
        self.drafters.pop(name, None)
        for session in self.sessions.values():
            session.links.pop(name, None)

    def join(self, session: Session, now: float) -> None:
        """Link every drafter to a session, each with how far it may run at first."""
        self._forget_strangers()
        if now - self._joined_at > STALE_S:
            self._race_anew()
        self._joined_at = now
        if not session.links:
            session.plain = self._races(session) and self.race_of(session).is_plain
        for name, drafter in self.drafters.items():
            if name not in session.links:
                link = DrafterLink(credit=0, told_at=now, patient=bool(session.job.speculation.window))
                link.unread = len(session.tokens)
                link.late = LATE if drafter.silent else 0
                session.links[name] = link
                link.credit = self._credit(session, link, self._useful(session, drafter))

    def _forget_strangers(self) -> None:
        """The oldest records go first, and never those of who is here."""
        if (excess := len(self.calibrations) - RECORDS_MAX) > 0:
            gone = [name for name in self.calibrations if name not in OWN and name not in self.drafters]
            for name in gone[:excess]:
                del self.calibrations[name]

    def lives(self, name: InstanceId) -> None:
        """It sent something, be it for a text that has ended meanwhile."""
        if name in self.drafters:
            self.drafters[name].silent = False

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
                self._learn_delay(link, drafter, (now - link.told_at) * 1000, spent)
            link.heard_at, link.unread = now, 0
        if event.at >= len(session.tokens):  # else it did not know yet what was accepted meanwhile, and will go on
            link.resting = not event.more

    def _learn_delay(self, link: DrafterLink, drafter: AttachedDrafter, waited_ms: float, drafted_ms: float) -> None:
        """Before its first guess it reads the whole text, which says nothing of how soon it answers later."""
        if not link.unread:
            drafter.observe_lead(waited_ms, drafted_ms)
        elif drafter.beside and link.awaited:
            drafter.observe_reading(link.unread, waited_ms - drafted_ms - drafter.lead_ms)

    @property
    def _computing(self) -> bool:
        """Whether a pass is under way: who drafts on the same cores meanwhile is slower than it would be alone."""
        return any(session.inflight_windows for session in self.sessions.values())

    def measure(self, session: Session, tokens: int, ms: float, authors: Sequence[str]) -> None:
        """A cycle of a session ended, with guesses of these authors: quick or slow, with drafters at work or without.

        Drafters that were told to rest work on until they hear that; what ends before is neither.
        """
        drafting = [link for link in session.links.values() if link.credit]
        stirred = self._stirred_ms > 0
        self._stirred_ms = self._settle_ms if drafting else self._stirred_ms - ms
        warming = [link for link in drafting if link.warming]
        for link in warming:
            link.warming -= 1
        if warming or not self._races(session) or self._reads_aside(session):
            return
        if drafting:
            self.race_of(session).add(True, tokens, ms)
        elif not stirred and OWN.issuperset(authors):
            self.race_of(session).add(False, tokens, ms)

    def _reads_aside(self, session: Session) -> bool:
        """Whether somebody reads the text while the target goes on: such a cycle is neither plain nor drafted."""
        links = ((link, self.drafters.get(name)) for name, link in session.links.items() if link.credit)
        return any(drafter is not None and link.reads_aside(drafter) for link, drafter in links)

    def race_of(self, session: Session) -> SpeculationABTest:
        """What is known of texts like this one: what a grammar demands comes without drafters, too."""
        grammar = session.grammar
        return self.race if grammar is None or grammar.begins else self.race_by_grammar

    def _races(self, session: Session) -> bool:
        """Whether the outcome is measured: passes that others share tell nothing of it."""
        alone = len(self.sessions) == 1 and not session.job.speculation.window
        return alone and bool(self.drafters) and session.speculates

    def usual_rate(self, session: Session) -> float:
        """Tokens per millisecond that a wait has to beat; 0: not known, or no wait keeps windows from leaving."""
        return self.race_of(session).usual_rate if self.limits.in_flight == 1 else 0.0

    def grant(self, session: Session, now: float) -> list[DraftGranted]:
        """How far each drafter may run, now that more is known of what its guesses are worth; only what is new."""
        grants = []
        links = {name: link for name, link in session.links.items() if name in self.drafters}
        for name, link in links.items():
            if link.unread and self.drafters[name].beside:
                link.awaited = self._worth_reading(session, self.drafters[name], link)
            if not link.ignored(session.generated):
                link.useful = self._useful(session, self.drafters[name])
        useful = any(link.useful for link in links.values())
        session.plain = useful and self._races(session) and self.race_of(session).wants_plain(self._restart_ms)
        for name, link in links.items():
            link.tried += link.heard_at > link.told_at
            link.told_at, link.resting = now, False
            credit = self._credit(session, link, link.useful)
            if not credit and not link.ignored(session.generated) and self._is_hopeless(session, name, link):
                link.look_at = session.generated + _LOOK_EVERY
            if credit != link.credit:
                link.warming = link.warming if link.credit else WARMING
                link.credit = credit
                grants.append(DraftGranted(session=session.id, drafter=name, credit=credit))
        return grants

    def _worth_reading(self, session: Session, drafter: AttachedDrafter, link: DrafterLink) -> bool:
        """Whether the rest of the text will win the time that a drafter takes to read it on the target's own cores.

        A text that is longer than usual already is taken to go on for as long again.
        """
        left = min(session.remaining, max(self._answer_tokens - session.generated, session.generated))
        rate = self._predicted(session, drafter)
        won_ms = self.cost(1) - 1.0 / rate if rate > 0.0 else 0.0
        return left * won_ms > link.unread * drafter.read_ms

    def _is_hopeless(self, session: Session, name: InstanceId, link: DrafterLink) -> bool:
        """Whether somebody who rests will not pay at the next token either: it lost, or is nearly always wrong."""
        if session.plain:
            return self.race_of(session).lost
        return session.beliefs.hoped(name, link.tried) < _HOPELESS

    @property
    def _settle_ms(self) -> float:
        still = (drafter.lead_ms / 2 + drafter.token_ms for drafter in self.drafters.values())
        return min(_SETTLE_MS_MAX, max(still, default=0.0))

    @property
    def _restart_ms(self) -> float:
        return max((drafter.lead_ms for drafter in self.drafters.values() if not drafter.beside), default=0.0)

    def _useful(self, session: Session, drafter: AttachedDrafter) -> int | None:
        """How far it should run by what is predicted; None: it gives way, whatever its guesses are worth."""
        if session.job.speculation.window:
            return session.job.speculation.window
        if self._gives_way(session, drafter):
            return None
        credit, beliefs = 0, session.beliefs
        hope = beliefs.hoped(drafter.name, session.links[drafter.name].tried)
        for chance in (beliefs.typical(drafter.name), hope):
            credit = credit or self._pays(drafter, chance)
        return credit

    def _pays(self, drafter: AttachedDrafter, chance: float) -> int:
        """How far it should run if its guesses have this chance."""
        window = self.limits.max_window
        return useful_credit(
            self.cost,
            chance,
            drafter.token_ms,
            drafter.lead_ms,
            drafter.beside,
            window=self.limits.ahead or window,
            ahead=WINDOWS_AHEAD * window,
        )

    def _gives_way(self, session: Session, drafter: AttachedDrafter) -> bool:
        """Sessions that share a pass use the device better than a drafter on it would, and so does the target alone
        where somebody elsewhere guesses as well."""
        if not drafter.beside or len(self.sessions) > 1:
            return drafter.beside
        elsewhere = [self._predicted(session, other) for other in self._heard_elsewhere(session)]
        return bool(elsewhere) and max(elsewhere) >= self._predicted(session, drafter)

    def _heard_elsewhere(self, session: Session) -> Iterator[AttachedDrafter]:
        for name, link in session.links.items():
            other = self.drafters.get(name)
            if other is not None and not other.beside and link.credit and not link.late and link.heard_at >= 0:
                yield other

    def _predicted(self, session: Session, drafter: AttachedDrafter) -> float:
        chance, window = session.beliefs.typical(drafter.name), self.limits.max_window
        return predicted_rate(self.cost, chance, drafter.token_ms, drafter.lead_ms, drafter.beside, window)

    def _credit(self, session: Session, link: DrafterLink, useful: int | None) -> int:
        """How far it may run; one that does not pay is tried again, ever more rarely, for a text can become easier."""
        if session.plain or useful is None:
            return 0
        if useful:
            link.probe_gap = PROBE_GAP
        elif session.generated < link.probe_at:
            return 0
        else:
            link.probe_gap = min(_LOOK_AGAIN_MAX, link.probe_gap * 2)
        link.probe_at = session.generated + link.probe_gap
        return useful or 2


def _advice(drafter: AttachedDrafter, agreement: float, compared: int, step_ms: float) -> str:
    if not compared:
        return f"{drafter.model} sent no guess in time; look at its log and at the network between"
    return (
        f"{drafter.model} agrees with the target in {agreement:.0%} of {compared} tokens and needs "
        f"{drafter.token_ms:.1f} ms for one, the target {step_ms:.1f} ms: use a faster or a nearer relative"
    )
