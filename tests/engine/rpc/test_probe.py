"""The handshake in front of llama.cpp: every answer but the right one becomes an error in time."""

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tcp import is_kept_alive, linux_only
from tests.waiting import until, until_it_answers, wait_until
from twd.engine.library import EngineDevice
from twd.engine.rpc import probe as rpc_probe
from twd.engine.rpc import worker as rpc_worker
from twd.engine.rpc.probe import OURS, RpcMismatch, RpcUnusable, RpcVersion, probe, require_match
from twd.net.ports import free_port
from twd.wire.failures import FailureCode

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(major: int, minor: int, patch: int = 0) -> bytes:
    return struct.pack("<QBBBB", 28, major, minor, patch, 0) + bytes(24)


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def saying(data: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(33) == rpc_probe.hello()
        writer.write(data)
        await writer.drain()

    return talk


@pytest.fixture(scope="module")
def worker() -> Iterator[int]:
    port = free_port()
    argv = (sys.executable, "-P", "-m", "twd.engine.rpc.worker", "--port", str(port), "--threads", "1")
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield port
    process.kill()
    process.wait(10)


async def test_our_engine_speaks_what_we_think_it_does(worker: int) -> None:
    async def answers() -> bool:
        try:
            return await require_match("127.0.0.1", worker) == OURS
        except RpcUnusable:
            return False

    await until_it_answers(answers, "the worker listens")
    for _ in range(3):  # and a probe leaves it free for the next one
        assert await probe("127.0.0.1", worker) == OURS


@linux_only
def test_a_worker_notices_a_client_that_vanished(worker: int) -> None:
    def notices() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", worker)) as client:
            return is_kept_alive(worker, client.getsockname()[1])
        return False

    wait_until(notices, "it asks whether its client is there")


async def test_a_worker_tells_what_it_lends_and_is_free_again(worker: int) -> None:
    for _ in range(2):
        told = await rpc_probe.look("127.0.0.1", worker)
        assert told.version == OURS
        (lent,) = told.devices
        assert 0 < lent.free <= lent.total
        assert told.rtt_s > 0


async def test_only_a_worker_of_our_version_is_asked_for_its_devices_and_must_answer_that() -> None:
    def telling(version: bytes, devices: bytes) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await saying(answer(*version))(reader, writer)
            if await reader.read(9) == bytes([15, *bytes(8)]):
                writer.write(devices)

        return talk

    async with listening(telling(bytes([7, 0]), struct.pack("<QQ", 8, 1))) as port:
        with pytest.raises(RpcUnusable, match="8 bytes instead of 4"):
            await rpc_probe.look("127.0.0.1", port)
    async with listening(telling(bytes([8, 0]), b"")) as port:
        assert await rpc_probe.look("127.0.0.1", port) == rpc_probe.RpcWorkerFacts(RpcVersion(8, 0, 0))


async def test_another_version_is_named_with_the_fix() -> None:
    async with listening(saying(answer(6, 1, 2))) as port:
        with pytest.raises(
            RpcMismatch, match=r"speaks protocol 6\.1\.2, the engine here speaks 7\.0\.0\. Update the w"
        ):
            await require_match("127.0.0.1", port)
    async with listening(saying(answer(7, 1))) as port:
        with pytest.raises(RpcMismatch, match="Update this machine"):
            await require_match("127.0.0.1", port)
    async with listening(saying(answer(7, 0, 9))) as port:
        assert await require_match("127.0.0.1", port) == RpcVersion(7, 0, 9)


async def test_a_web_server_is_no_worker() -> None:
    async with listening(saying(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n")) as port:
        with pytest.raises(RpcUnusable, match="no RPC worker") as told:
            await probe("127.0.0.1", port)
    assert told.value.code is FailureCode.BACKEND_BROKEN


async def test_one_that_hangs_up_is_no_worker() -> None:
    async with listening(saying(b"abc")) as port:
        with pytest.raises(RpcUnusable, match="hung up after 3 bytes"):
            await probe("127.0.0.1", port)


async def test_a_silent_port_costs_no_more_than_the_deadline() -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    async with listening(silent) as port:
        with pytest.raises(RpcUnusable, match=r"said nothing for 0\.1 s") as told:
            await probe("127.0.0.1", port, timeout_s=0.1)
        await until(ended.is_set, "the connection was closed")
    assert told.value.code is FailureCode.BUSY


async def test_a_closed_port_is_told_at_once() -> None:
    with pytest.raises(RpcUnusable, match="is the worker running") as told:
        await probe("127.0.0.1", free_port())
    assert told.value.code is FailureCode.BACKEND_DOWN


LENGTHS = st.sampled_from([28, 27, 29, 0]) | st.integers(0, 2**64 - 1)


@given(LENGTHS, st.binary(min_size=28, max_size=28))
def test_any_bytes_are_a_version_or_a_typed_error(length: int, rest: bytes) -> None:
    data = struct.pack("<Q", length) + rest
    try:
        version = rpc_probe.read_answer("h:1", data)
    except RpcUnusable:
        assert data[:8] != struct.pack("<Q", 28)
    else:
        assert version == RpcVersion(*data[8:11])


def device(name: str, kind: str) -> EngineDevice:
    return EngineDevice(name=name, description=name, kind=kind, total_bytes=1, free_bytes=1, handle=1)


def test_a_worker_lends_its_gpus_else_its_cpu_else_what_it_is_told() -> None:
    cpu, gpu = device("CPU", "cpu"), device("CUDA0", "gpu")
    assert rpc_worker.choose([gpu, cpu], []) == [gpu]
    assert rpc_worker.choose([cpu], []) == [cpu]
    assert rpc_worker.choose([gpu, cpu], ["CPU"]) == [cpu]
    with pytest.raises(SystemExit, match="no device CUDA7; there are: CUDA0, CPU"):
        rpc_worker.choose([gpu, cpu], ["CUDA7"])


@pytest.mark.parametrize("host", ["rig..lan", "x" * 64])
async def test_a_name_that_nobody_can_have_is_told(host: str) -> None:
    with pytest.raises(RpcUnusable, match="nobody can be called so"):
        await rpc_probe.look(host, 50052)
