"""Our own requests that wait for an answer."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from twd.bus.base import BusError
from twd.bus.nats.frames import StatusReply

Answered = Callable[[StatusReply | BusError], None]
"""Called once, with the answer or the error."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """One open request: its subject, the subject for its answer, and the callback."""

    subject: str
    answer_to: str
    answered: Answered


class PendingRequests:
    """All open requests of one connection; answers come to subjects below `prefix`.

    The receiver of a request knows the subject of its answer; the random end hides the subjects of other answers.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._open: dict[str, PendingRequest] = {}

    @property
    def waiting(self) -> bool:
        """Whether a request is open."""
        return bool(self._open)

    def put(self, subject: str, answered: Answered) -> PendingRequest:
        """Add and return a new request."""
        question = PendingRequest(subject, f"{self.prefix}{secrets.token_hex(8)}", answered)
        self._open[question.answer_to] = question
        return question

    def drop(self, question: PendingRequest) -> None:
        """Remove a request."""
        self._open.pop(question.answer_to, None)

    def take(self, subject: str, answer: StatusReply | BusError) -> None:
        """Pass an answer or error to its request; ignored if the request is not open any more."""
        question = self._open.pop(subject, None)
        if question is not None:
            question.answered(answer)

    def fail(self, error: BusError, subject: str = "") -> None:
        """End every open request with an error, or only those on one subject (in any case)."""
        for question in list(self._open.values()):
            if subject in ("", question.subject.lower()):
                self.take(question.answer_to, error)
