"""Sends file bytes to a client: with sendfile if not encrypted, with a speed limit, in a few transfer slots."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from twd.swarm.pace import Pace
from twd.swarm.shared import Shared
from twd.wire.failures import FailureCode, TwdError

STALL_S: Final = 20.0
"""A client that reads nothing for so many seconds is disconnected."""
LENT_S: Final = 1.0
"""After so many seconds its slot is given to others until it reads again: it may have been stopped."""
WAITING_MAX: Final = 256
READ_AHEAD: Final = 256 * 1024
"""Bytes that the system may have read ahead."""
LET_GO_S: Final = 1.0
"""Seconds until the connection has released the pages; before that they cannot leave the page cache."""
TLS_STEP: Final = 256 * 1024


class TransferSlot:
    """The slot of one transfer."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free = free
        self._held = False

    async def take(self) -> None:
        """Wait for a free slot, and hold it."""
        await self._free.acquire()
        self._held = True

    def give(self) -> None:
        """Let others have it, if it is held."""
        if self._held:
            self._held = False
            self._free.release()

    async def lend_until(self, moves: Callable[[], Awaitable[None]]) -> None:
        """Wait until `moves` returns. If that takes long, others have the slot meanwhile; raises TimeoutError in the
        end."""
        try:
            await asyncio.wait_for(moves(), LENT_S)
        except TimeoutError:
            self.give()
            await asyncio.wait_for(moves(), STALL_S)
            await self.take()


class TransferSlots:
    """Limits the transfers at one time; some more wait in order."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self.waiting = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[TransferSlot]:
        """Hold a slot inside this context; raises TwdError if too many wait already."""
        if self.waiting >= WAITING_MAX:
            raise TwdError(FailureCode.BUSY, "too many wait here already; ask again in a moment")
        slot = TransferSlot(self._free)
        self.waiting += 1
        try:
            await slot.take()
        finally:
            self.waiting -= 1
        try:
            yield slot
        finally:
            slot.give()


async def send_range(request: web.Request, shared: Shared, begin: int, end: int, pace: Pace, slot: TransferSlot) -> int:
    """Send the bytes from `begin` to `end`; returns the number of bytes sent."""
    descriptor = shared.descriptor
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client hung up")
    keep = shared.was_warm(begin)
    encrypted = transport.get_extra_info("sslcontext") is not None
    if not encrypted:  # the headers must be sent before sendfile writes to a duplicate of the socket
        transport.set_write_buffer_limits(0)
    at = begin
    sending = None if encrypted else _Plain(transport.get_extra_info("socket"), slot)
    try:
        await asyncio.wait_for(request.writer.drain(), STALL_S)
        while at < end:
            step = min(pace.step, end - at)
            if sending is not None:
                await sending.send(descriptor, at, step)
            else:
                await _write(request, descriptor, at, step, slot)
            at += step
            await pace.passed(step)
    finally:
        if sending is not None:
            sending.close()
        if not keep:
            asyncio.get_running_loop().call_later(LET_GO_S, shared.let_go, begin, at - begin + READ_AHEAD)
    return at - begin


async def _write(request: web.Request, descriptor: int, at: int, length: int, slot: TransferSlot) -> None:
    for begin in range(at, at + length, TLS_STEP):
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client hung up")
        transport.write(os.pread(descriptor, min(TLS_STEP, at + length - begin), begin))
        await slot.lend_until(request.writer.drain)


class _Plain:
    """sendfile on a duplicate of the socket, which the event loop can watch for us."""

    def __init__(self, sock: socket.socket, slot: TransferSlot) -> None:
        self._descriptor, self._slot = os.dup(sock.fileno()), slot
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Close the duplicate."""
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)

    async def send(self, descriptor: int, at: int, length: int) -> None:
        """Send these bytes; raises if the client disconnected or reads nothing."""
        end = at + length
        while at < end:
            try:
                sent = os.sendfile(self._descriptor, descriptor, at, end - at)
            except BlockingIOError:
                await self._slot.lend_until(self._writable)
                continue
            if not sent:
                raise ConnectionResetError("the file became shorter")
            at += sent
        await asyncio.sleep(0)  # let other clients run, too

    async def _writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._descriptor, _set, ready)
        try:
            await ready
        finally:
            self._loop.remove_writer(self._descriptor)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
