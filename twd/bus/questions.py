"""Our own requests that wait for an answer."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from twd.bus.base import BusError
from twd.bus.nats.frames import StatusReply

Answered = Callable[[StatusReply | BusError], None]
"""Called once, with the answer or with the reason why none came."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """One open request: where it went, where its answer comes, and who waits for it."""

    subject: str
    answer_to: str
    answered: Answered


class PendingRequests:
    """All open requests of one connection; answers come to subjects below `prefix`.

    Whoever gets a request learns where its answer goes, and must not learn from that where other answers go.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._open: dict[str, PendingRequest] = {}

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._open)

    def put(self, subject: str, answered: Answered) -> PendingRequest:
        """A new request."""
        question = PendingRequest(subject, f"{self.prefix}{secrets.token_hex(8)}", answered)
        self._open[question.answer_to] = question
        return question

    def drop(self, question: PendingRequest) -> None:
        """Nobody waits for this any more."""
        self._open.pop(question.answer_to, None)

    def take(self, subject: str, answer: StatusReply | BusError) -> None:
        """What became of a request; what nobody waits for any more is left aside."""
        question = self._open.pop(subject, None)
        if question is not None:
            question.answered(answer)

    def fail(self, error: BusError, subject: str = "") -> None:
        """End every open request with an error, or only those on one subject (in any case)."""
        for question in list(self._open.values()):
            if subject in ("", question.subject.lower()):
                self.take(question.answer_to, error)
