"""Messages as they came: their event, if its subject and it say the same of who sent it."""

from typing import Final, TypeVar

import msgspec

from twd.bus.base import INBOX_PREFIX, BusMessage
from twd.kit.ids import Ids
from twd.wire.base import Event, InstanceId
from twd.wire.codec import Rejected, decode_as
from twd.wire.routes import Route, origin_in, route_of_subject

_MAY_ASK_FOR_OTHERS: Final = "admin"
"""A person's tools sign in under this role, whatever their name is."""

E = TypeVar("E", bound=Event)


def decode_heard(route: Route, message: BusMessage) -> Event | Rejected:
    """The event of a message on this route. A broker with rights by role vouches for its subject, not for its text."""
    event = decode_as(route.event, message.data)
    if isinstance(event, Rejected):
        return event
    wrong = route.disagreement(message.subject, event)
    return Rejected(wrong) if wrong else event


def heard_event(message: BusMessage) -> Event | Rejected:
    """The same for whoever listens to several kinds of events in one place."""
    route = route_of_subject(message.subject)
    return Rejected("no event travels on this subject") if route is None else decode_heard(route, message)


def inbox_of_asker(message: BusMessage) -> str:
    """Where the answer to a request goes; nowhere, if that is not the inbox of who asked."""
    role, machine = origin_in(message.subject)
    inbox = message.reply.split(".", 3)
    own = inbox[:3] == [INBOX_PREFIX, role, machine] or inbox[:2] == [INBOX_PREFIX, _MAY_ASK_FOR_OTHERS]
    return message.reply if own else ""


def stamp(event: E, name: str) -> E:
    """What a person's tool says, signed with the name `<role>.<machine>` under which it is connected."""
    return msgspec.structs.replace(event, id=Ids().event(), source=InstanceId(f"{name}.cli"))
