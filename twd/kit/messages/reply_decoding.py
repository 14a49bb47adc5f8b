"""Decodes answers to requests."""

from twd.bus.base import BusError
from twd.wire.base import Event
from twd.wire.codec import Rejected, decode
from twd.wire.failures import FailureCode
from twd.wire.routes import ROUTE_OF
from twd.wire.service import MessageRejected


class NotUnderstood(BusError):
    """The receiver of the request could not decode it; another one with the same version could not either."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"whoever took the request could not read it: {reason}; do all processes run the same version of twd?",
            FailureCode.BACKEND_BROKEN,
        )


def read_answer(data: bytes) -> Event | Rejected:
    """Return the answer as an event, or why it is rejected; raises NotUnderstood if it is a MessageRejected."""
    answer = decode(data)
    if isinstance(answer, MessageRejected):
        raise NotUnderstood(answer.reason)
    wrong = "" if isinstance(answer, Rejected) else ROUTE_OF[type(answer)].misnamed(answer)
    return Rejected(wrong) if wrong else answer


def read_answer_or_error(answer: bytes | BusError) -> Event | Rejected | BusError:
    """Like `read_answer`, for what may be an error already; returns all errors."""
    try:
        return answer if isinstance(answer, BusError) else read_answer(answer)
    except NotUnderstood as error:
        return error
