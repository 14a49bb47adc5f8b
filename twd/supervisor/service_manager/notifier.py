"""Tells the service manager how an installation is: READY, STATUS, the watchdog's signs of life, STOPPING."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from twd.process.health import status_of
from twd.process.notify import NotifySocket
from twd.process.process_table import ProcessTable, hopeless
from twd.supervisor.service_manager.core import can_answer, status_words, stuck

LOOK_STARTING_S: Final = 0.5
LOOK_S: Final = 5.0
LOOKS_PER_WATCHDOG: Final = 4
"""So that a single answer that comes late does not end an installation."""
EXTENDED_S: Final = 60
"""While it starts or drains, the service manager is asked again and again to wait for so many seconds more."""

AskStatus = Callable[[str], Awaitable[int]]


class ServiceManagerNotifier:
    """Speaks for one installation. Without a service manager it says nothing."""

    def __init__(
        self,
        way: NotifySocket | None,
        table: ProcessTable,
        api: Callable[[], str],
        give_up: Callable[[str], None],
        ask: AskStatus = status_of,
    ) -> None:
        """`api` returns the address of the API, or an empty text. `give_up` ends a start that cannot succeed."""
        self._way = way
        self._table = table
        self._api = api
        self._give_up = give_up
        self._ask = ask
        self._told = ""
        self._ready = False
        self._ending = False

    @property
    def present(self) -> bool:
        """Whether a service manager started this installation."""
        return self._way is not None

    async def keep_telling(self) -> None:
        """Look at the installation, and tell how it is, until it ends."""
        while self._way is not None and not self._ending:
            await self._look(self._way)
            await asyncio.sleep(self._pause_s(self._way))

    def _pause_s(self, way: NotifySocket) -> float:
        if not self._ready:
            return LOOK_STARTING_S
        return min(LOOK_S, way.watchdog_s / LOOKS_PER_WATCHDOG) if way.watchdog_s else LOOK_S

    async def _look(self, way: NotifySocket) -> None:
        address = self._api()
        api = await self._ask(f"{address}/readyz") if address else None
        rows = list(self._table.rows.values())
        if self._ending or not rows:
            return
        trouble = stuck(rows, api) if self._ready else ""
        self.status(status_words(rows, self._ready, trouble))
        if self._ready:
            if not trouble:
                way.send(WATCHDOG=1)
        elif can_answer(rows, self._table.ready, api):
            self._ready = way.send(READY=1)
        elif row := hopeless(rows):
            self._give_up(f"{row.name} cannot start: {row.note}")
        else:
            way.send(EXTEND_TIMEOUT_USEC=EXTENDED_S * 1_000_000)

    def status(self, words: str) -> None:
        """Send one line of words, if it is a new one."""
        if self._way is not None and words != self._told:
            self._told = words
            self._way.send(STATUS=words)

    def reloading(self, now_us: int) -> None:
        """The settings are read again. `now_us`: microseconds of the monotonic clock."""
        if self._way is not None:
            self._way.send(RELOADING=1, MONOTONIC_USEC=now_us)

    def reloaded(self, words: str) -> None:
        """The settings were read again, with this result."""
        if self._way is not None:
            self._told = words
            self._way.send(READY=1, STATUS=words)

    def ending(self) -> None:
        """The installation drains now."""
        self._ending = True
        if self._way is not None:
            self._way.send(
                STOPPING=1, STATUS="ending: jobs are finished first", EXTEND_TIMEOUT_USEC=EXTENDED_S * 1_000_000
            )
