"""What one client listens to: told to each new connection, and closed when the broker denies it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from twd.bus.base import BusError, Subscription, SubscriptionOptions
from twd.bus.inbox import Inbox, Listener
from twd.bus.nats.frames import subscribe_frame, unsubscribe_frame
from twd.bus.nats.link import Denial, LinkError, NatsLink
from twd.wire.failures import FailureCode

ANSWERS: Final = 1
"""The number of the subscription for answers to our own requests."""

log = logging.getLogger("twd.bus")


class _Asked:
    """A subscription that the broker has not confirmed yet. NATS writes its denials in lower case."""

    def __init__(self, pattern: str, queue: str) -> None:
        self.what = (pattern.lower(), queue.lower())
        self.denial: Denial | None = None


class NatsSubscription:
    """One open subscription; satisfies the Subscription protocol."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    async def close(self) -> None:
        """Unsubscribe."""
        self._close()


class Subscriptions:
    """All subscriptions of one client, by their numbers."""

    def __init__(self, inbox: Inbox, answers: str, link: Callable[[], NatsLink | None]) -> None:
        """`answers`: the pattern of answers to our own requests. `link` returns the connection, while there is one."""
        self.listeners: dict[int, Listener] = {}
        self._number = ANSWERS
        self._asked: set[_Asked] = set()
        self._inbox = inbox
        self._answers = answers
        self._link = link

    async def open(self, hearings: Sequence[SubscriptionOptions]) -> list[Subscription]:
        """Subscribe; on return the broker knows the subscriptions, unless it is away."""
        first = self._number + 1
        self._number += len(hearings)
        new = {
            number: Listener(one.pattern, one.handler, one.queue, one.limit, one.when_full)
            for number, one in enumerate(hearings, first)
        }
        self.listeners |= new
        try:
            link = self._link()
            if link is not None:
                await self._announce_new(link, new)
        except BaseException:  # refused or cancelled: the caller gets no subscription that it could close
            for number in new:
                self._close(number)
            raise
        return [NatsSubscription(partial(self._close, number)) for number in new]

    async def _announce_new(self, link: NatsLink, new: dict[int, Listener]) -> None:
        with ExitStack() as asking:
            asked = [asking.enter_context(self._asking(one.pattern, one.queue)) for one in new.values()]
            try:
                self._tell(link, new)
                await link.round_trip()
            except BusError as error:
                patterns = ", ".join(one.pattern for one in new.values())
                log.info("%s will be listened to when the broker is back: %s", patterns, error)
        for one in asked:
            if one.denial is not None:
                raise BusError(one.denial.text, FailureCode.FORBIDDEN)

    async def greet(self, link: NatsLink) -> None:
        """Send all subscriptions to a new connection, and check that answers may arrive on it."""
        with self._asking(self._answers) as asked:
            self.announce(link)
            await link.round_trip()
        if asked.denial is not None:
            raise LinkError(asked.denial.text, FailureCode.FORBIDDEN, final=True)

    @contextmanager
    def _asking(self, pattern: str, queue: str = "") -> Iterator[_Asked]:
        """Inside this context, a denial of this subscription is stored in the yielded object."""
        asked = _Asked(pattern, queue)
        self._asked.add(asked)
        try:
            yield asked
        finally:
            self._asked.remove(asked)

    def announce(self, link: NatsLink) -> None:
        """Send all subscriptions that this connection does not have yet."""
        link.listen(ANSWERS, subscribe_frame(self._answers, "", ANSWERS))
        self._tell(link, self.listeners)

    @staticmethod
    def _tell(link: NatsLink, listeners: Mapping[int, Listener]) -> None:
        for number, listener in listeners.items():
            link.listen(number, subscribe_frame(listener.pattern, listener.queue, number))

    def denied(self, denial: Denial) -> bool:
        """Store a denial for all that wait for this subscription; False if nobody waits for it."""
        concerned = [asked for asked in self._asked if asked.what == (denial.subject, denial.queue)]
        for asked in concerned:  # the broker answers each of them the same
            asked.denial = denial
        return bool(concerned)

    def cancel(self, link: NatsLink) -> None:
        """Tell the broker to send nothing more; what has arrived is still handled."""
        for number in self.listeners:
            link.write(unsubscribe_frame(number))

    def _close(self, number: int) -> None:
        listener = self.listeners.pop(number, None)
        if listener is None:
            return
        self._inbox.shut(listener)
        link = self._link()
        if link is not None:
            link.write(unsubscribe_frame(number))
