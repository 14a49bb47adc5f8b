"""Our own requests that wait for an answer."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from twd.bus.base import BusError
from twd.bus.nats_frames import Answer


@dataclass(eq=False, slots=True)
class Question:
    """One open request: where it went, where its answer comes, and the answer once it is there."""

    subject: str
    answer_to: str
    answer: asyncio.Future[Answer]


class Questions:
    """All open requests of one connection; answers come to subjects below `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._open: dict[str, Question] = {}
        self._count = 0

    @contextmanager
    def ask(self, subject: str) -> Iterator[Question]:
        """A new request; leaving the block gives it up."""
        self._count += 1
        question = Question(subject, f"{self.prefix}{self._count}", asyncio.get_running_loop().create_future())
        self._open[question.answer_to] = question
        try:
            yield question
        finally:
            del self._open[question.answer_to]

    def take(self, subject: str, answer: Answer) -> None:
        """An answer came; one that nobody waits for any more is left aside."""
        question = self._open.get(subject)
        if question is not None and not question.answer.done():
            question.answer.set_result(answer)

    def fail(self, error: BusError, subject: str = "") -> None:
        """End every open request with an error, or only those on one subject (in any case)."""
        for question in self._open.values():
            if not question.answer.done() and subject in ("", question.subject.lower()):
                question.answer.set_exception(error)
