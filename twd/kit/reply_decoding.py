"""Answers to requests: what was asked for, or why it was not understood."""

from twd.bus.base import BusError
from twd.wire.base import Event
from twd.wire.codec import Rejected, decode
from twd.wire.failures import FailureCode
from twd.wire.routes import ROUTE_OF
from twd.wire.service import MessageRejected


class NotUnderstood(BusError):
    """Somebody took the request and could not read it; nobody like him will."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"whoever took the request could not read it: {reason}; do all processes run the same version of twd?",
            FailureCode.BACKEND_BROKEN,
        )


def read_answer(data: bytes) -> Event | Rejected:
    """An answer as an event; raises NotUnderstood where it tells that the request could not be read."""
    answer = decode(data)
    if isinstance(answer, MessageRejected):
        raise NotUnderstood(answer.reason)
    wrong = "" if isinstance(answer, Rejected) else ROUTE_OF[type(answer)].misnamed(answer)
    return Rejected(wrong) if wrong else answer
