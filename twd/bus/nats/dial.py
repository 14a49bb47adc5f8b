"""Makes a connection: tries each URL in turn, with growing pauses, for some seconds or for ever."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

from twd.bus.address import BusAddress
from twd.bus.base import BusError
from twd.bus.nats.link import Denial, LinkError, NatsLink, open_link
from twd.bus.nats.reader import Deliver
from twd.bus.urls import shown_url

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MOST_S: Final = 2.0
GREETING_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True)
class Dialer:
    """What is needed to connect to one broker; `greet` sends what each new connection must send first."""

    address: BusAddress
    name: str
    ping_interval_s: float
    deliver: Deliver
    denied: Callable[[Denial], None]
    greet: Callable[[NatsLink], Coroutine[Any, Any, None]]

    async def within(self, wait_s: float) -> NatsLink:
        """Return a connection; raises LinkError after `wait_s` seconds, or at once if another try cannot help."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        for pause in backoff():
            try:
                return await self._any_url()
            except LinkError as error:
                if error.final or loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the backoff never ends")

    async def for_ever(self, failed: Callable[[LinkError], None]) -> NatsLink:
        """Return a connection, however long it takes; each failure is passed to `failed`."""
        for pause in backoff():
            await asyncio.sleep(pause)
            try:
                return await self._any_url()
            except LinkError as error:
                failed(error)
        raise AssertionError("the backoff never ends")

    async def _any_url(self) -> NatsLink:
        failures: list[LinkError] = []
        for url in self.address.urls:
            try:
                return await self._one_url(url)
            except LinkError as error:
                failures.append(error)
        raise next((error for error in failures if not error.final), failures[0])

    async def _one_url(self, url: str) -> NatsLink:
        link = await open_link(url, self.address, self.name, self.ping_interval_s, self.deliver, self.denied)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                await self.greet(link)
        except BaseException as error:
            await link.abort()
            if isinstance(error, LinkError) or not isinstance(error, BusError | TimeoutError):
                raise
            raise LinkError(f"the broker at {shown_url(url)} broke off: {error}") from error
        return link


def backoff() -> Iterator[float]:
    """Yield pauses in seconds: they double, and each is up to a half shorter at random, to spread the clients."""
    pause = BACKOFF_FIRST_S
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, BACKOFF_MOST_S)
