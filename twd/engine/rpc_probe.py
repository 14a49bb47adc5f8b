"""Shakes hands with an RPC worker before llama.cpp does: where the worker is wrong, llama.cpp would abort or hang."""

import asyncio
import struct
from dataclasses import dataclass
from typing import Final

from twd.wire.failures import FailureCode, TwdError

HELLO: Final = 14
CAPABILITIES: Final = 24
ANSWER: Final = struct.Struct(f"<QBBBB{CAPABILITIES}s")
ANSWER_PAYLOAD: Final = ANSWER.size - 8
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
"""What the engine of this build speaks."""


class RpcMismatch(TwdError):
    """A worker of another protocol version; llama.cpp would end this process over it."""

    def __init__(self, where: str, worker: RpcVersion, ours: RpcVersion) -> None:
        older = "the worker" if worker < ours else "this machine"
        super().__init__(
            FailureCode.UNSUPPORTED,
            f"the RPC worker at {where} speaks protocol {worker}, the engine here speaks {ours}. Update {older} to the "
            "other's build of llama.cpp (`pip install -U twd` does that for twd's own), or leave this worker out",
        )


class RpcUnusable(TwdError):
    """Nobody answers, or whoever answers is no RPC worker."""

    def __init__(self, where: str, why: str, code: FailureCode = FailureCode.BACKEND_DOWN) -> None:
        super().__init__(code, f"no RPC worker can be used at {where}: {why}")


def hello() -> bytes:
    """What a client says first."""
    return bytes([HELLO]) + struct.pack("<Q", CAPABILITIES) + bytes(CAPABILITIES)


def read_answer(where: str, data: bytes) -> RpcVersion:
    """The version in a worker's answer; raises where it is something else."""
    size, major, minor, patch, _, _ = ANSWER.unpack(data)
    if size != ANSWER_PAYLOAD:
        text = f"what answers there is no RPC worker, or one of another age (it began with {data[:8]!r})"
        raise RpcUnusable(where, text, FailureCode.BACKEND_BROKEN)
    return RpcVersion(major, minor, patch)


async def probe(host: str, port: int, timeout_s: float = PROBE_S) -> RpcVersion:
    """The version that a worker speaks; raises RpcUnusable within the deadline, whatever is on the port."""
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout_s):
            return read_answer(where, await _shake_hands(host, port))
    except TimeoutError:
        text = f"it took the connection but said nothing for {timeout_s:g} s; it may serve another client, or hang"
        raise RpcUnusable(where, text, FailureCode.BUSY) from None
    except asyncio.IncompleteReadError as error:
        text = f"it hung up after {len(error.partial)} bytes; it is no RPC worker, or an old one"
        raise RpcUnusable(where, text, FailureCode.BACKEND_BROKEN) from None
    except OSError as error:
        raise RpcUnusable(where, f"{error.strerror or error}; is the worker running?") from None


async def _shake_hands(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(hello())
        await writer.drain()
        return await reader.readexactly(ANSWER.size)
    finally:
        writer.close()


async def require_match(host: str, port: int, ours: RpcVersion = OURS, timeout_s: float = PROBE_S) -> RpcVersion:
    """The worker's version, if the engine here can use it; raises RpcMismatch or RpcUnusable otherwise."""
    worker = await probe(host, port, timeout_s)
    if not ours.can_talk_to(worker):
        raise RpcMismatch(f"{host}:{port}", worker, ours)
    return worker
