"""The drafters of one speculator: what was measured of them, and the credit of each in each session."""

from collections.abc import Collection, Iterator, Sequence

from twd.drafting.calibration import Calibration
from twd.drafting.window_value import Cost
from twd.speculator.core.ab_test import SpeculationABTest
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.session import OWN, Session
from twd.speculator.core.window_size import FLOOR_LEAST, least_chance, predicted_rate, useful_credit
from twd.speculator.drafters.drafter_link import LATE, PROBE_GAP, WARMING, AttachedDrafter, DrafterLink
from twd.wire.base import InstanceId
from twd.wire.draft import DrafterChecked, DraftGranted, DraftProposed, Voter

_LOOK_AGAIN_MAX = 1024
"""Longest pause, in tokens, before a drafter that did not pay is tried again."""
STALE_S = 60.0
"""After so many seconds without a new session, drafters that lost are tried again at once: the load of the machines
may have changed."""
_LOOK_EVERY = 8
"""Tokens after which the credit of a resting drafter is computed again, where little can change meanwhile."""
_HOPELESS = 0.15
"""If the chance of its drafts is below this, no change of costs or pace makes a drafter pay soon."""
_SETTLE_MS_MAX = 200.0
"""Longest time that drafters are taken to work on after they were told to rest; later cycles count as plain."""
WINDOWS_AHEAD = 2
"""A drafter may be this many windows ahead: one window is verified while the next is drafted."""
RECORDS_MAX = 256
"""Most records that are kept: there can be many names where drafters restart or strangers send drafts."""
ANSWER_TOKENS = 64.0
"""The expected length of answers, in tokens, before any answer has ended."""
_ANSWER_WEIGHT = 0.2
_FLOOR_STEP = 0.1
"""A drafter is told a new floor when it differs by more than this."""
ENOUGH_TO_TELL = 16
"""This many drafts must have been verified before a drafter is told whether it pays."""


class DrafterPool:
    """All drafters of this target."""

    def __init__(
        self,
        identity: SpeculatorIdentity,
        limits: SpeculatorLimits,
        cost: Cost,
        sessions: dict[int, Session],
        queue: Collection[Session],
    ) -> None:
        """`sessions`: those that have a slot; `queue`: those that wait for one."""
        self.identity = identity
        self.limits = limits
        self.cost = cost
        self.sessions = sessions
        self._queue = queue
        self.drafters: dict[InstanceId, AttachedDrafter] = {}
        self.calibrations: dict[str, Calibration] = {}
        self.race, self.race_by_grammar = SpeculationABTest(), SpeculationABTest.in_bursts()
        self._answer_tokens = ANSWER_TOKENS
        """The usual length of answers in tokens."""
        self._joined_at = 0.0
        """When the last session began, in seconds of the clock."""
        self._stirred_ms = 0.0
        """How many milliseconds drafters may still work after they were told to rest."""

    @property
    def wants_text(self) -> bool:
        """Whether a drafter works on text instead of tokens."""
        return any(drafter.by_text for drafter in self.drafters.values())

    @property
    def voters(self) -> list[Voter]:
        """The drafters whose votes count: not those that work on text."""
        able = [one for one in self.drafters.values() if not one.by_text]
        return [Voter(drafter=one.name, model=one.model or one.name) for one in able]

    def vote_ms(self, session: Session) -> float:
        """Returns how soon enough of the drafters at work on a session vote on its next tokens; 0: nobody is."""
        paces = sorted(
            drafter.lead_ms + (link.credit if drafter.beside else 2) * drafter.token_ms
            for drafter, link in self.at_work(session)  # who is beside the target sends all of its drafts at once
        )
        enough = len(paces) // 2 if self.limits.consensus == "majority" else -1
        return paces[enough] if paces else 0.0

    def voted_at(self, session: Session) -> float | None:
        """Returns when the last drafter at work on a session voted on its next tokens; None: some have not."""
        links = [link for _, link in self.at_work(session)]
        return max((link.heard_at for link in links), default=None) if all(map(_has_voted, links)) else None

    def at_work(self, session: Session) -> list[tuple[AttachedDrafter, DrafterLink]]:
        """Returns the drafters that may draft for a session now."""
        links = ((self.drafters.get(name), link) for name, link in session.links.items() if link.credit)
        return [(drafter, link) for drafter, link in links if drafter is not None]

    def assess(self, name: InstanceId) -> DrafterChecked | None:
        """Returns whether a drafter pays here, from what was measured so far; None: unknown, or nothing new."""
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
        """Take the end of a text of `tokens` tokens. Returns the new verdicts on drafters."""
        self._answer_tokens += _ANSWER_WEIGHT * (tokens - self._answer_tokens)
        for drafter in self.drafters.values():
            drafter.settled = max(0, drafter.settled - 1)
        seen = {name for name, record in self.calibrations.items() if record.weight >= ENOUGH_TO_TELL}
        told = [self.assess(name) for name in self.drafters if name in seen]
        return [verdict for verdict in told if verdict is not None]

    def attach(self, drafter: AttachedDrafter) -> None:
        """Attach a drafter, for the first time or again. If its share of the cores changed, it is measured anew."""
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
        """Detach a drafter. Its drafts stay usable, but no more are awaited."""
        self.drafters.pop(name, None)
        for session in self.sessions.values():
            session.links.pop(name, None)

    def join(self, session: Session, now: float) -> None:
        """Link every drafter to a session, each with its first credit."""
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
        """Drop the oldest records, but never those of attached drafters."""
        if (excess := len(self.calibrations) - RECORDS_MAX) > 0:
            gone = [name for name in self.calibrations if name not in OWN and name not in self.drafters]
            for name in gone[:excess]:
                del self.calibrations[name]

    def lives(self, name: InstanceId) -> None:
        """Record that a drafter is alive: it sent something, even if for a text that has ended."""
        if name in self.drafters:
            self.drafters[name].silent = False

    def hear(self, session: Session, event: DraftProposed, fresh: bool, now: float) -> None:
        """Record the arrival of drafts. Even drafts that came too late show that the drafter is alive and how fast it
        is."""
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
        if event.at >= len(session.tokens):  # an older draft came before it knew the accepted tokens, so it will go on
            link.resting = not event.more

    def _learn_delay(self, link: DrafterLink, drafter: AttachedDrafter, waited_ms: float, drafted_ms: float) -> None:
        """Learn the delay of a draft. Before its first draft a drafter reads the whole text; that delay does not show
        how soon it answers later."""
        if not link.unread:
            drafter.observe_lead(waited_ms, drafted_ms)
        elif drafter.beside and link.awaited:
            drafter.observe_reading(link.unread, waited_ms - drafted_ms - drafter.lead_ms)

    @property
    def _computing(self) -> bool:
        """Whether a pass is in flight. A drafter on the same cores is then slower than it would be alone."""
        return any(session.inflight_windows for session in self.sessions.values())

    def measure(self, session: Session, tokens: int, ms: float, authors: Sequence[str]) -> None:
        """Measure a cycle of a session, with drafters or without; `authors`: the sources of its drafts.

        Drafters that were told to rest still work until they receive that. Cycles that end before count for neither
        rate.
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
        """Returns whether a drafter reads the text while the target goes on: such a cycle is neither plain nor
        drafted."""
        links = ((link, self.drafters.get(name)) for name, link in session.links.items() if link.credit)
        return any(drafter is not None and link.reads_aside(drafter) for link, drafter in links)

    def race_of(self, session: Session) -> SpeculationABTest:
        """Returns the measurement for texts like this one. Texts with a grammar have their own, because forced tokens
        come without drafters."""
        grammar = session.grammar
        return self.race if grammar is None or grammar.begins else self.race_by_grammar

    def _races(self, session: Session) -> bool:
        """Returns whether this session is measured: not in passes that several sessions share, because these show
        nothing of it."""
        alone = len(self.sessions) == 1 and not session.job.speculation.window
        return alone and bool(self.drafters) and session.speculates

    def usual_rate(self, session: Session) -> float:
        """Returns the tokens per millisecond that a wait must beat; 0: not known, or waits do not delay windows."""
        return self.race_of(session).usual_rate if self.limits.in_flight == 1 else 0.0

    def grant(self, session: Session, now: float) -> list[DraftGranted]:
        """Compute the credit of each drafter anew; returns the grants that changed."""
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
            floor = self._floor(session, self.drafters[name])
            if credit != link.credit or (credit and abs(floor - link.floor) > _FLOOR_STEP):
                link.warming = link.warming if link.credit else WARMING
                link.credit, link.floor = credit, floor
                grants.append(DraftGranted(session=session.id, drafter=name, credit=credit, floor=floor))
        return grants

    def grant_reading(self, session: Session) -> list[DraftGranted]:
        """Let the drafters that share cores with stages read the prompt; returns the grants."""
        grants = []
        for name, link in session.links.items():
            drafter = self.drafters.get(name)
            if drafter is not None and drafter.yields and link.credit:
                link.floor = self._floor(session, drafter)
                grants.append(
                    DraftGranted(session=session.id, drafter=name, credit=link.credit, floor=link.floor, reads=True)
                )
        return grants

    def _floor(self, session: Session, drafter: AttachedDrafter) -> float:
        """Returns how sure its drafts must be. A drafter elsewhere drafts during passes, so its drafts cost nothing."""
        if not drafter.beside:
            return FLOOR_LEAST
        chance = session.beliefs.typical(drafter.name)
        return least_chance(self.cost, chance, drafter.token_ms, drafter.lead_ms, self.limits.max_window)

    def _worth_reading(self, session: Session, drafter: AttachedDrafter, link: DrafterLink) -> bool:
        """Returns whether a drafter saves more time in the rest of the text than it takes to read it on the target's
        own cores.

        A text that is longer than usual is expected to go on for the same length again.
        """
        left = min(session.remaining, max(self._answer_tokens - session.generated, session.generated))
        rate = self._predicted(session, drafter)
        won_ms = self.cost(1) - 1.0 / rate if rate > 0.0 else 0.0
        return left * won_ms > link.unread * drafter.read_ms

    def _is_hopeless(self, session: Session, name: InstanceId, link: DrafterLink) -> bool:
        """Returns whether a resting drafter will not pay at the next token either: it lost the comparison, or is
        nearly always wrong."""
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
        """Returns its credit by prediction; None: it must rest whatever its drafts are worth."""
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
        """Returns its credit if each draft has this chance; 0: it does not pay."""
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
        """Returns whether a drafter on the target's device must rest. It must if several sessions share the passes,
        because these use the device better, or if a drafter elsewhere is at least as good."""
        if not drafter.beside or self._together > 1:
            return drafter.beside
        elsewhere = [self._predicted(session, other) for other in self._heard_elsewhere(session)]
        return bool(elsewhere) and max(elsewhere) >= self._predicted(session, drafter)

    @property
    def _together(self) -> int:
        """How many sessions share passes, now or as soon as those that wait get the free slots."""
        return min(self.limits.slots, len(self.sessions) + len(self._queue))

    def _heard_elsewhere(self, session: Session) -> Iterator[AttachedDrafter]:
        for name, link in session.links.items():
            other = self.drafters.get(name)
            if other is not None and not other.beside and link.credit and not link.late and link.heard_at >= 0:
                yield other

    def _predicted(self, session: Session, drafter: AttachedDrafter) -> float:
        chance, window = session.beliefs.typical(drafter.name), self.limits.max_window
        return predicted_rate(self.cost, chance, drafter.token_ms, drafter.lead_ms, drafter.beside, window)

    def _credit(self, session: Session, link: DrafterLink, useful: int | None) -> int:
        """Returns its credit in tokens: no more drafts than the text can take beside the target's own token. A drafter
        that does not pay is tried again, with growing pauses, because a text can become easier."""
        if session.plain or useful is None:
            return 0
        if useful:
            link.probe_gap = PROBE_GAP
        elif session.generated < link.probe_at:
            return 0
        else:
            link.probe_gap = min(_LOOK_AGAIN_MAX, link.probe_gap * 2)
        link.probe_at = session.generated + link.probe_gap
        return min(useful or 2, max(0, session.remaining - 1))


def _has_voted(link: DrafterLink) -> bool:
    return link.heard_at > link.told_at


def _advice(drafter: AttachedDrafter, agreement: float, compared: int, step_ms: float) -> str:
    if not compared:
        return f"{drafter.model} sent no guess in time; look at its log and at the network between"
    return (
        f"{drafter.model} agrees with the target in {agreement:.0%} of {compared} tokens and needs "
        f"{drafter.token_ms:.1f} ms for one, the target {step_ms:.1f} ms: use a faster or a nearer relative"
    )
