"""Messages that a service did not read: it could not decode them, or the bus dropped them because it was slow."""

from typing import Final

from twd.bus.base import BusMessage, BusStats
from twd.wire.service import MessageDropped, MessageRejected

SUBJECTS_MAX: Final = 1000


class UnreadMessages:
    """Counts the unread messages of one service by subject, and says which of them to publish."""

    def __init__(self) -> None:
        self.rejected: dict[str, int] = {}
        """How many messages could not be decoded."""
        self._drops_told: dict[str, int] = {}

    def reject(self, message: BusMessage, reason: str) -> MessageRejected | None:
        """Count a message that could not be decoded; returns the event to publish. There is one for the first, second,
        fourth, eighth ... message of a subject: many bad messages cause few events."""
        count = self.rejected[message.subject] = self.rejected.get(message.subject, 0) + 1
        if len(self.rejected) > SUBJECTS_MAX:
            self.rejected.clear()
        return rejection(message, reason, count) if count & (count - 1) == 0 else None

    def dropped(self, stats: BusStats) -> list[MessageDropped]:
        """Return an event for each subject of which messages were dropped since the last call."""
        counts = dict(stats.dropped_by_subject)
        new = {subject: count - self._drops_told.get(subject, 0) for subject, count in counts.items()}
        self._drops_told = counts
        return [
            MessageDropped(subject=subject, count=count, policy="slow consumer")
            for subject, count in new.items()
            if count
        ]


def rejection(message: BusMessage, reason: str, count: int = 1) -> MessageRejected:
    """Return the event that a message could not be decoded."""
    return MessageRejected(
        subject=message.subject[:512], reason=reason[:1024], size_bytes=len(message.data), repeated=count
    )
