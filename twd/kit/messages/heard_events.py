"""Decodes received messages, and checks that the event names the same sender as the subject does."""

import re
from typing import Final, TypeVar

import msgspec

from twd.bus.base import INBOX_PREFIX, BusMessage
from twd.kit.ids import Ids
from twd.wire.base import Event, InstanceId
from twd.wire.codec import Rejected, decode_as
from twd.wire.routes import Route, origin_in, route_of_subject

_MAY_ASK_FOR_OTHERS: Final = "admin"
"""Command-line tools connect under this role, whatever their name is."""

E = TypeVar("E", bound=Event)


def handler_name(event_type: type[Event]) -> str:
    """`JobSubmitted` is handled by `on_job_submitted`."""
    return "on" + re.sub(r"(?=[A-Z])", "_", event_type.__name__).lower()


def decode_heard(route: Route, message: BusMessage) -> Event | Rejected:
    """Return the event of a message on this route, or why it is rejected.

    A broker with permissions for each role checks the sender in the subject, but not in the payload.
    """
    event = decode_as(route.event, message.data)
    if isinstance(event, Rejected):
        return event
    wrong = route.disagreement(message.subject, event)
    return Rejected(wrong) if wrong else event


def heard_event(message: BusMessage) -> Event | Rejected:
    """Like `decode_heard`, for a handler that receives several kinds of events; the subject gives the route."""
    route = route_of_subject(message.subject)
    return Rejected("no event travels on this subject") if route is None else decode_heard(route, message)


def inbox_of_asker(message: BusMessage) -> str:
    """Return the subject for the answer to a request; empty if it is not an inbox of the one who asked."""
    role, machine = origin_in(message.subject)
    inbox = message.reply.split(".", 3)
    own = inbox[:3] == [INBOX_PREFIX, role, machine] or inbox[:2] == [INBOX_PREFIX, _MAY_ASK_FOR_OTHERS]
    return message.reply if own else ""


def stamp(event: E, name: str) -> E:
    """Return the event with a new id, and `<role>.<machine>.cli` as its source; `name` is `<role>.<machine>`."""
    return msgspec.structs.replace(event, id=Ids().event(), source=InstanceId(f"{name}.cli"))
