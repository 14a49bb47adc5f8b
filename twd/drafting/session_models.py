"""The model of each session: drafters receive it when the session opens, and add it to each draft."""

from typing import Final

import msgspec

from twd.wire.base import Event, ModelId, SessionId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.names import origin_of
from twd.wire.routes import ANYBODY, ROUTE_OF

SESSIONS_MAX: Final = 4096


class SessionModels:
    """The models of the sessions that were opened lately."""

    def __init__(self) -> None:
        self._models: dict[SessionId, ModelId] = {}

    def hear(self, event: SessionOpened) -> None:
        """Record a session that opens, or is published again."""
        self._models[event.session] = event.model
        while len(self._models) > SESSIONS_MAX:
            del self._models[next(iter(self._models))]

    def forget(self, session: SessionId) -> None:
        """Forget a session that closed."""
        self._models.pop(session, None)

    def of(self, draft: DraftProposed) -> DraftProposed:
        """Returns the same draft with the model of its session."""
        return msgspec.structs.replace(draft, model=self._models.get(draft.session, ModelId("")))


def drafters_pattern(event_type: type[Event], drafter: str, for_model: str) -> str:
    """Returns the subject pattern of a drafter: sessions that are opened for it by name, and events of the model that
    it drafts for."""
    route = ROUTE_OF[event_type]
    of_model = {"model": for_model} if for_model and "model" in route.keys else {}
    return route.pattern_for(to=origin_of(drafter) if route.to else ANYBODY, **of_model)
