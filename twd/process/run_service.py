"""Runs one service in one process: connects, starts it, drains it when asked, and returns an exit code."""

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from twd.bus.base import Bus, BusError
from twd.kit.clock import SystemClock
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.kit.ids import Ids
from twd.kit.service import Service, ServiceContext
from twd.kit.tasks import TaskGroup, heard
from twd.process import platform
from twd.process.heartbeat import Heartbeat, beating
from twd.process.standstill import LOOK_S, Standstill, hung_work
from twd.wire.base import NodeId
from twd.wire.failures import TwdError

DRAIN_S: Final = 25.0
"""Seconds for a drain; less than the supervisor waits, so that the service ends by itself."""
FAREWELL_S: Final = 1.0
"""Seconds that a service with a hung thread has to publish its fault."""

log = logging.getLogger("twd.run")

MakeService = Callable[[ServiceContext], Service]
Connect = Callable[[], Coroutine[Any, Any, Bus]]
T = TypeVar("T")


class StopRequests:
    """Counts Ctrl-C and SIGTERM: the first asks to drain, the second ends the process at once."""

    def __init__(self, on_second: Callable[[], None]) -> None:
        self.asked = asyncio.Event()
        self._on_second = on_second

    def watch(self) -> None:
        """Handle the signals of this process from now on."""
        platform.on_stop_signals(asyncio.get_running_loop(), self.request)

    def request(self) -> None:
        """Handle one signal."""
        if self.asked.is_set():
            self._on_second()
        self.asked.set()


async def run_service(make: MakeService, connect: Connect, node: NodeId) -> ExitCode:
    """Run a service until it ends or a signal asks it to; returns the exit code.

    Under a supervisor, a broker that is not there ends it, for the supervisor tries again. Alone, it waits for it.
    """
    heart = Heartbeat.inherited()
    async with beating(heart):
        return await _run(make, connect, node, watched=heart is not None)


async def _run(make: MakeService, connect: Connect, node: NodeId, watched: bool) -> ExitCode:
    stop = StopRequests(lambda: os._exit(ExitCode.INTERRUPTED))
    stop.watch()
    bus = await unless(stop.asked, connect() if watched else _when_there(connect))
    if bus is None:
        return ExitCode.OK
    try:
        service = make(ServiceContext(bus=bus, node=node, clock=SystemClock(), ids=Ids()))
        return await _serve(service, stop, watched)
    finally:
        await bus.close()


async def _when_there(connect: Connect) -> Bus:
    """Return a connection, however long the broker is not there: machines start in any order."""
    while True:
        try:
            return await connect()
        except BusError as error:
            if error.final:
                raise
            log.warning("%s; this goes on until it is there", error)


async def _serve(service: Service, stop: StopRequests, watched: bool) -> ExitCode:
    try:
        await unless(stop.asked, service.start())
    except TwdError as error:
        log.error("%s cannot start: %s", service.name, error)
        await service.stop("cannot start")
        return exit_code_of(error.code)
    except Exception as error:  # noqa: BLE001 - the edge: logged with its story, and fatal
        service.fail(error, "start")
    _settle()
    await unless(stop.asked, _until_end(service) if watched else service.ended.wait())
    await service.drain(DRAIN_S)
    if service.fault is None:
        return ExitCode.OK
    return exit_code_of(service.fault.code) if isinstance(service.fault, TwdError) else ExitCode.FAULT


async def _until_end(service: Service) -> bool:
    """Wait until the service ends. If one of its threads hangs, end the process without waiting for that thread."""
    watch = Standstill()
    while not await heard(service.ended, LOOK_S):
        hung = hung_work(watch, service.under_way(), service.clock.now())
        if hung is not None:
            service.fail(hung, "a pass")
            await heard(service.ended, FAREWELL_S)
            os._exit(ExitCode.WORKER_LOST)
    return True


def _settle() -> None:
    """Exclude the objects of a started service from garbage collection, and turn the collector on."""
    gc.collect()
    gc.freeze()
    gc.enable()


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`; if `stop` is set first, cancel `work` and return None."""
    tasks = TaskGroup("run", lambda name, error: None)  # the error of `work` is raised here
    task, stopped = tasks.start("work", work), tasks.start("stop", stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await tasks.close()
