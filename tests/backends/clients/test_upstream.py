"""The HTTP client: every fault of a server has one clear end, in bounded time and memory."""

import asyncio
import socket
from typing import Any

import pytest

from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from twd.backends.clients.openai_compatible import ListedModels
from twd.backends.clients.upstream import CheckedResolver, UpstreamServer
from twd.net.ports import free_port
from twd.wire.failures import FailureCode, TwdError

SECRET = "sk-very-secret"


async def failure_of(upstream: UpstreamServer, timeout_s: float = 5.0) -> TwdError:
    """What a request to this server ends with."""
    async with asyncio.timeout(timeout_s):
        with pytest.raises(TwdError) as caught:
            await upstream.get("/v1/models", ListedModels)
    await upstream.close()
    return caught.value


CASES = [
    ("500", FailureCode.BACKEND_BROKEN, "answered 500: fault 500"),
    ("502", FailureCode.BACKEND_DOWN, "502"),
    ("503", FailureCode.BUSY, "503"),
    ("429", FailureCode.BUSY, "429"),
    ("401", FailureCode.BACKEND_BROKEN, "api_key"),
    ("404", FailureCode.BACKEND_BROKEN, "404"),
    ("hang", FailureCode.DEADLINE, "said nothing for 0.2 s"),
    ("hang_up", FailureCode.BACKEND_DOWN, "cannot be reached"),
    ("html", FailureCode.BACKEND_BROKEN, "something else than expected"),
    ("broken_json", FailureCode.BACKEND_BROKEN, "something else than expected"),
    ("wrong_shape", FailureCode.BACKEND_BROKEN, "$.data"),
    ("empty", FailureCode.BACKEND_BROKEN, "something else than expected"),
    ("huge", FailureCode.BACKEND_BROKEN, "more than"),
    ("redirect", FailureCode.BACKEND_BROKEN, "redirects are not followed"),
    ("gzip", FailureCode.BACKEND_BROKEN, "compresses"),
]


@pytest.mark.parametrize(("mode", "code", "words"), CASES, ids=[case[0] for case in CASES])
async def test_faults(farm: Farm, mode: str, code: FailureCode, words: str) -> None:
    server = OpenAiServer()
    await farm.add(server)
    server.faults.mode = mode
    patience_s = 0.2 if mode == "hang" else 20.0
    error = await failure_of(UpstreamServer(server.url, api_key=SECRET, timeout_s=patience_s))
    assert error.code is code
    assert words in str(error)
    assert SECRET not in str(error)
    assert server.url.removeprefix("http://") in str(error)


async def test_nobody_there() -> None:
    error = await failure_of(UpstreamServer(f"http://127.0.0.1:{free_port()}"))
    assert error.code is FailureCode.BACKEND_DOWN
    assert "connection refused" in str(error)


@pytest.mark.parametrize("greeting", [b"\x00\x01\x02\x03" * 9, b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 abc\r\n\r\n"])
async def test_something_that_speaks_no_http(greeting: bytes) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    error = await failure_of(UpstreamServer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=2))
    server.close()
    assert error.code in (FailureCode.BACKEND_BROKEN, FailureCode.BACKEND_DOWN)


async def test_a_body_that_is_cut_off() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{"da')
        writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    error = await failure_of(UpstreamServer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=2))
    server.close()
    assert error.code is FailureCode.BACKEND_BROKEN
    assert "broke off" in str(error)


async def test_the_key_travels_in_one_header_and_shows_nowhere(farm: Farm) -> None:
    server = OpenAiServer()
    server.key = SECRET
    await farm.add(server)
    upstream = UpstreamServer(server.url, api_key=SECRET)
    assert [model.id for model in (await upstream.get("/v1/models", ListedModels)).data] == ["toy", "other"]
    await upstream.close()
    assert SECRET not in repr(upstream) + repr(upstream.base)
    assert server.seen[0].headers["Authorization"] == f"Bearer {SECRET}"
    for key in ("kéy", "two\r\nlines"):
        with pytest.raises(TwdError) as caught:
            UpstreamServer(server.url, api_key=key)
        assert caught.value.failure.field == "api_key"
        assert key not in str(caught.value)


async def test_names_are_resolved_once_and_checked(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    server = OpenAiServer()
    await farm.add(server)
    port = int(server.url.rsplit(":", 1)[1])
    asked: list[str] = []

    async def look_up(host: str, port: int, **kwargs: Any) -> Any:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "169.254.169.254"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    upstream = UpstreamServer(f"http://models.example:{port}")
    await upstream.get("/v1/models", ListedModels)
    await upstream.close()
    assert asked == ["models.example"], "the connection goes where the first answer said"
    error = await failure_of(UpstreamServer(f"http://models.example:{port}", allow_private=False))
    assert error.code is FailureCode.FORBIDDEN
    assert "models.example (169.254.169.254) is a link-local or cloud metadata address" in str(error)


async def test_localhost_is_private_under_any_name() -> None:
    error = await failure_of(UpstreamServer("http://localhost:1", allow_private=False))
    assert error.code is FailureCode.FORBIDDEN
    with pytest.raises(TwdError):
        UpstreamServer("http://[::ffff:127.0.0.1]:1", allow_private=False)
    with pytest.raises(OSError, match="loopback"):
        await CheckedResolver(allow_private=False).resolve("localhost", 80)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
async def test_addresses_in_disguise(host: str) -> None:
    error = await failure_of(UpstreamServer(f"http://{host}:1", allow_private=False))
    assert error.code in (FailureCode.FORBIDDEN, FailureCode.BACKEND_BROKEN)


async def test_connections_are_used_again(farm: Farm) -> None:
    server = OpenAiServer()
    await farm.add(server)
    upstream = UpstreamServer(server.url)
    for _ in range(3):
        await upstream.get("/v1/models", ListedModels)
    session = upstream._session
    assert session is not None
    assert session.connector is not None
    assert sum(len(free) for free in session.connector._conns.values()) == 1
    await upstream.close()


async def test_a_kept_connection_that_was_closed_is_opened_again() -> None:
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: application/json\r\n\r\n")
        writer.write(b'{"data": []} ')
        await writer.drain()
        await reader.read(1)  # the next request has come: hang up without an answer
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    upstream = UpstreamServer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=2)
    for _ in range(3):
        assert (await upstream.get("/v1/models", ListedModels)).data == []
    assert served == 3
    await upstream.close()
    server.close()
