"""The trials of drafters right after a start. An answer that interrupts them is slow, so an installation is ready after
them."""

import asyncio
from typing import Final

from twd.kit.clock import Clock
from twd.kit.tasks import heard
from twd.wire.base import InstanceId

ATTACH_S: Final = 0.3
"""Seconds in which drafters attach to a model that became ready."""
TRIALS_S: Final = 5.0
"""The longest wait for trials, in seconds: a large model is used before they end."""


class FirstTrials:
    """The drafters that attached and were not measured yet."""

    def __init__(self, expected: bool) -> None:
        """`expected`: whether the settings name drafters."""
        self._expected = expected
        self._waiting: set[InstanceId] = set()
        self._checked: set[InstanceId] = set()
        self._news = asyncio.Event()

    def attached(self, drafter: InstanceId) -> None:
        """A drafter attached; its trial follows, unless it had one."""
        if drafter not in self._checked:
            self._waiting.add(drafter)

    def checked(self, drafter: InstanceId) -> None:
        """A drafter was measured, or cannot be used."""
        self._checked.add(drafter)
        self.left(drafter)

    def left(self, drafter: InstanceId) -> None:
        """A drafter left."""
        self._waiting.discard(drafter)
        self._news.set()

    def over(self, waited_s: float) -> bool:
        """Returns whether there is nothing to wait for, so many seconds after all processes became ready."""
        if not self._expected or waited_s >= TRIALS_S:
            return True
        return waited_s >= ATTACH_S and not self._waiting

    async def end(self, clock: Clock) -> None:
        """Wait until the trials are over."""
        began = clock.now()
        while not self.over(waited_s := clock.now() - began):
            self._news.clear()
            await heard(self._news, (ATTACH_S if waited_s < ATTACH_S else TRIALS_S) - waited_s)
