"""The racer service: reads drafts and publishes tokens that drafters agree on. The decisions are in core.py."""

from twd.kit.effects import Publish
from twd.kit.service import Effects, Service, ServiceContext
from twd.racer.core import RacerCore
from twd.wire.base import Event
from twd.wire.draft import DraftProposed, SessionClosed, SessionOpened
from twd.wire.job import TokensAccepted
from twd.wire.judging import RACERS, TokensAgreed
from twd.wire.leases.others import RacerFacts
from twd.wire.routes import ROUTE_OF


class Racer(Service):
    """Counts the votes of drafters."""

    name = "racer"
    reads = (SessionOpened, SessionClosed, DraftProposed, TokensAccepted)
    writes = (TokensAgreed,)

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.core = RacerCore(self.instance)

    def pattern(self, event_type: type[Event]) -> str:
        """SessionOpened events that are sent to racers, and all other events of sessions."""
        route = ROUTE_OF[event_type]
        return route.pattern_for(to=RACERS) if route.to else route.pattern

    def facts(self) -> RacerFacts:
        """What `twd status` reads about it."""
        return RacerFacts(sessions=len(self.core.races), agreed=self.core.agreed)

    def on_session_opened(self, event: SessionOpened) -> Effects:
        """A session was opened."""
        self.core.opened(event)
        return None

    def on_session_closed(self, event: SessionClosed) -> Effects:
        """A session was closed."""
        self.core.closed(event.session)
        return None

    def on_draft_proposed(self, event: DraftProposed) -> Effects:
        """A drafter votes."""
        return self._tell(self.core.proposed(event))

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """The target accepted tokens."""
        return self._tell(self.core.accepted(event))

    def _tell(self, agreed: TokensAgreed | None) -> Effects:
        return None if agreed is None else [Publish(agreed)]
