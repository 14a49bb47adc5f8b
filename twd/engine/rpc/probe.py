"""Checks an RPC worker with a handshake before llama.cpp uses it. With an unsuitable worker llama.cpp aborts or hangs.

A worker serves one client at a time and lets one more wait, so a worker in use should not be asked.
"""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from twd.wire.failures import FailureCode, TwdError

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

DEVICE_MEMORY: Final = 11
HELLO: Final = 14
DEVICE_COUNT: Final = 15
CAPABILITIES: Final = 24
SIZE: Final = struct.Struct("<Q")
ANSWER: Final = struct.Struct(f"<QBBBB{CAPABILITIES}s")
ANSWER_PAYLOAD: Final = ANSWER.size - SIZE.size
COUNT: Final = struct.Struct("<I")
MEMORY: Final = struct.Struct("<QQ")
DEVICES_MAX: Final = 64
PROBE_S: Final = 3.0


@dataclass(frozen=True, slots=True, order=True)
class RpcVersion:
    """A version of llama.cpp's RPC protocol."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    def can_talk_to(self, worker: "RpcVersion") -> bool:
        """Whether a client of this version may use a worker of that one: the rule of llama.cpp's own check."""
        return worker.major == self.major and worker.minor <= self.minor


OURS: Final = RpcVersion(7, 0, 0)
"""The protocol version of this build's engine."""


class RpcMismatch(TwdError):
    """A worker has an incompatible protocol version; llama.cpp would abort this process."""

    def __init__(self, where: str, worker: RpcVersion, ours: RpcVersion) -> None:
        older = "the worker" if worker < ours else "this machine"
        super().__init__(
            FailureCode.UNSUPPORTED,
            f"the RPC worker at {where} speaks protocol {worker}, the engine here speaks {ours}. Update {older} to the "
            "other's build of llama.cpp (`pip install -U twd` does that for twd's own), or leave this worker out",
        )


class RpcUnusable(TwdError):
    """Nothing answers, or what answers is not a usable RPC worker."""

    def __init__(self, where: str, why: str, code: FailureCode = FailureCode.BACKEND_DOWN) -> None:
        super().__init__(code, f"no RPC worker can be used at {where}: {why}")


@dataclass(frozen=True, slots=True)
class LentMemory:
    """The memory of a device that a worker lends, in bytes. For a CPU, llama.cpp mostly reports all of it as free."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class RpcWorkerFacts:
    """The facts that a worker reports. For an incompatible version, only the version is known."""

    version: RpcVersion
    devices: tuple[LentMemory, ...] = ()
    rtt_s: float = 0.0


def hello() -> bytes:
    """The first message of a client."""
    return _command(HELLO, bytes(CAPABILITIES))


def _command(number: int, payload: bytes = b"") -> bytes:
    return bytes([number]) + SIZE.pack(len(payload)) + payload


def read_answer(where: str, data: bytes) -> RpcVersion:
    """The version in a worker's answer; raises RpcUnusable if it is not such an answer."""
    size, major, minor, patch, _, _ = ANSWER.unpack(data)
    if size != ANSWER_PAYLOAD:
        text = f"what answers there is no RPC worker, or one of another age (it began with {data[:8]!r})"
        raise RpcUnusable(where, text, FailureCode.BACKEND_BROKEN)
    return RpcVersion(major, minor, patch)


async def probe(host: str, port: int, timeout_s: float = PROBE_S) -> RpcVersion:
    """The protocol version of a worker; raises RpcUnusable within the time limit, whatever is on the port."""
    where = f"{host}:{port}"

    async def ask() -> RpcVersion:
        async with _connected(host, port) as streams:
            return await _shake_hands(where, streams)

    return await _answered(where, ask(), timeout_s)


async def look(host: str, port: int, ours: RpcVersion = OURS, timeout_s: float = PROBE_S) -> RpcWorkerFacts:
    """The version, devices and round-trip time of a worker that is not in use; raises RpcUnusable within the limit."""
    where = f"{host}:{port}"

    async def ask() -> RpcWorkerFacts:
        async with _connected(host, port) as streams:
            version = await _shake_hands(where, streams)
            if not ours.can_talk_to(version):
                return RpcWorkerFacts(version)
            began = time.perf_counter()
            (count,) = await _ask(where, streams, _command(DEVICE_COUNT), COUNT)
            rtt_s = time.perf_counter() - began
            wishes = [_command(DEVICE_MEMORY, COUNT.pack(device)) for device in range(min(count, DEVICES_MAX))]
            lent = [LentMemory(*(await _ask(where, streams, wish, MEMORY))) for wish in wishes]
            return RpcWorkerFacts(version, tuple(lent), rtt_s)

    return await _answered(where, ask(), timeout_s)


async def _answered(where: str, answer: Coroutine[Any, Any, T], timeout_s: float) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError:
        text = f"it took the connection but said nothing for {timeout_s:g} s; it may serve another client, or hang"
        raise RpcUnusable(where, text, FailureCode.BUSY) from None
    except asyncio.IncompleteReadError as error:
        text = f"it hung up after {len(error.partial)} bytes; it is no RPC worker, or an old one"
        raise RpcUnusable(where, text, FailureCode.BACKEND_BROKEN) from None
    except UnicodeError as error:
        raise RpcUnusable(where, f"nobody can be called so: {error}") from None
    except OSError as error:
        raise RpcUnusable(where, f"{error.strerror or error}; is the worker running?") from None


@asynccontextmanager
async def _connected(host: str, port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _shake_hands(where: str, streams: Streams) -> RpcVersion:
    reader, writer = streams
    writer.write(hello())
    return read_answer(where, await reader.readexactly(ANSWER.size))


async def _ask(where: str, streams: Streams, command: bytes, answer: struct.Struct) -> tuple[int, ...]:
    reader, writer = streams
    writer.write(command)
    (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
    if size != answer.size:
        text = f"it answered a question about its devices with {size} bytes instead of {answer.size}"
        raise RpcUnusable(where, text, FailureCode.BACKEND_BROKEN)
    return answer.unpack(await reader.readexactly(size))


async def require_match(host: str, port: int, ours: RpcVersion = OURS, timeout_s: float = PROBE_S) -> RpcVersion:
    """The worker's version if this engine can use it; otherwise raises RpcMismatch or RpcUnusable."""
    worker = await probe(host, port, timeout_s)
    if not ours.can_talk_to(worker):
        raise RpcMismatch(f"{host}:{port}", worker, ours)
    return worker
