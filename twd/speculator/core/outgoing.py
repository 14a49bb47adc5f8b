"""What the core publishes: accepted tokens at once or joined, and everything else as it comes."""

from collections.abc import Iterable, Mapping

from twd.drafting.window_value import Cost
from twd.kit.effects import Effect, Publish
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.output_coalescing import add, may_wait
from twd.speculator.core.session import Session
from twd.wire.base import Event
from twd.wire.job import TokensAccepted


class Outgoing:
    """The effects of the core since they were last taken."""

    def __init__(self, limits: SpeculatorLimits, cost: Cost, sessions: Mapping[int, Session]) -> None:
        """`sessions`: those that have a slot now."""
        self._limits = limits
        self._cost = cost
        self._sessions = sessions
        self._effects: list[Effect] = []

    def tell(self, event: Event) -> None:
        """Publish an event."""
        self._effects.append(Publish(event))

    def tell_all(self, events: Iterable[Event]) -> None:
        """Publish some events."""
        for event in events:
            self.tell(event)

    def effects(self) -> list[Effect]:
        """Returns the effects since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def speak(self, session: Session, event: TokensAccepted, now: float) -> None:
        """Publish accepted tokens, or keep them to publish with the next ones. With drafters at work they are
        published at once, because the drafters need them."""
        add(session.unsaid, event)
        others_read = any(other.prefilling for other in self._sessions.values())
        if session.first_at == now or session.drafted or others_read:
            self.say(session, now)
            return
        since_ms, next_ms = (now - session.spoke_at) * 1000, self._cost(len(self._sessions))
        if not may_wait(since_ms, next_ms, self._limits.stream_ms, whole=session.job.whole):
            self.say(session, now)

    def say(self, session: Session, now: float) -> None:
        """Publish what waits of one session."""
        for event in session.unsaid:
            self.tell(event)
            session.spoke_at = now
        session.unsaid.clear()

    def say_all(self, now: float) -> None:
        """Publish all accepted tokens that wait, because the next pass may take long."""
        for session in self._sessions.values():
            self.say(session, now)

    def keep_alive(self, sessions: Iterable[Session], now: float) -> None:
        """Publish a sign of life of each session of which nothing was published for long."""
        for session in sessions:
            if now - session.spoke_at >= self._limits.keepalive_s:
                add(session.unsaid, session.accepted(len(session.tokens), session.generated, [], []))
                self.say(session, now)
