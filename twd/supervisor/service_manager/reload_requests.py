"""SIGHUP from a service manager: read the settings again, and record the result for the one who asked."""

import asyncio
import signal
import time
from collections.abc import Callable

from twd.process.home import ReloadRecord
from twd.supervisor.service_manager.notifier import ServiceManagerNotifier
from twd.supervisor.service_manager.reload import ServesModels, SettingsReload
from twd.wire.life import ChangeTold


class ReloadRequests:
    """Collects requests to read the settings again. Requests that come while one is carried out become one more."""

    def __init__(
        self, reload: SettingsReload | None, manager: ServiceManagerNotifier, tell: Callable[[str], None]
    ) -> None:
        """`reload`: None where nobody may ask: in a terminal, SIGHUP says that it was closed."""
        self._reload = reload
        self._manager = manager
        self._tell = tell
        self._asked = asyncio.Event()
        self._last = ReloadRecord()

    @property
    def record(self) -> ReloadRecord | None:
        """What the state folder's record says of it."""
        return self._last if self._reload is not None else None

    def watch(self) -> None:
        """Take SIGHUP as such a request from now on."""
        if self._reload is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._asked.set)

    def told(self, event: ChangeTold) -> None:
        """A change of models came this far."""
        if self._reload is not None:
            self._reload.told(event)

    async def carry_out(self, life: ServesModels, written: Callable[[], None]) -> None:
        """Carry out one request after another; `written` writes the record."""
        while self._reload is not None:
            await self._asked.wait()
            self._asked.clear()
            self._manager.reloading(time.monotonic_ns() // 1000)
            well, words = await self._reload.carry_out(life)
            self._last = ReloadRecord(count=self._last.count + 1, done_well=well, words=words)
            self._tell(words)
            self._manager.reloaded(words)
            written()
