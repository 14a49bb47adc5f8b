"""Who listens in tests of a bus."""

from tests.waiting import until
from twd.bus.base import Bus, BusMessage


class Ear:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.messages: list[BusMessage] = []

    def __call__(self, message: BusMessage) -> None:
        self.messages.append(message)

    @property
    def subjects(self) -> list[str]:
        return [message.subject for message in self.messages]

    @property
    def bodies(self) -> list[bytes]:
        return [message.data for message in self.messages]


async def hear_end(bus: Bus, sender: Bus) -> None:
    """Return when everything that `sender` published so far was handled by `bus`."""
    ended = Ear()
    subscription = await bus.subscribe("the.end", ended)
    sender.publish("the.end", b"")
    await until(lambda: bool(ended.messages))
    await subscription.close()
