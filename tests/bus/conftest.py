"""A fresh nats-server for a test, and both buses behind one face."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from twd.bus.address import BusAddress
from twd.bus.base import Bus
from twd.bus.broker import server_binary
from twd.bus.memory.bus import MemoryBroker
from twd.bus.nats.bus import NatsBus

READY_S = 10.0
PLAIN_CONFIG = "max_payload: 8MB\njetstream {}\n"


@dataclass
class NatsServer:
    """One nats-server process on a free port, which a restart keeps; `server.conf` in its home is used if there."""

    home: Path
    options: list[str] = field(default_factory=list)
    port: int = -1
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def address(self) -> BusAddress:
        return BusAddress(self.url)

    def start(self) -> None:
        """Start it, and wait until it says where it listens."""
        config = self.home / "server.conf"
        if not config.exists():
            config.write_text(PLAIN_CONFIG)
        argv = [str(server_binary()), "-c", str(config), "-a", "127.0.0.1", "-p", str(self.port)]
        more = ["--ports_file_dir", str(self.home), "-sd", str(self.home / "store"), *self.options]
        with (self.home / "log").open("ab") as out:
            self.process = subprocess.Popen([*argv, *more], stdout=out, stderr=out)
        self.port = self._wait_for_port(self.home / f"nats-server_{self.process.pid}.ports")

    def _wait_for_port(self, ports: Path) -> int:
        assert self.process is not None
        try:
            return wait_for_ports(ports, self.process)
        except AssertionError:
            raise AssertionError((self.home / "log").read_text()) from None

    def signal(self, number: int) -> None:
        """Send the process a signal; of one that stops it, all threads have stopped then."""
        assert self.process is not None
        os.kill(self.process.pid, number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def wait_for_ports(ports: Path, process: subprocess.Popen[bytes]) -> int:
    """The client port that a starting server writes into its ports file."""
    deadline = time.monotonic() + READY_S
    while not (ports.exists() and ports.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the server ended at once"
    listening: dict[str, list[str]] = json.loads(ports.read_text())
    return int((listening.get("nats") or listening["tls"])[0].rsplit(":", 1)[1])


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A running server without any sign-in."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.kill()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What touches connections runs on both loops that twd runs on."""
    on_both = (
        item.path.name in ("test_contract.py", "test_contract_requests.py", "test_bus.py", "test_dialing.py")
        and os.name != "nt"
    )
    if not on_both:
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


Connect = Callable[[str], Awaitable[Bus]]


@pytest.fixture(params=["memory", *(pytest.param(kind, marks=pytest.mark.nats) for kind in ("nats", "gathering nats"))])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes connections to one fresh broker; all are closed at the end."""
    opened: list[Bus] = []
    if request.param != "memory":
        server: NatsServer = request.getfixturevalue("nats_server")
    broker = MemoryBroker()

    async def open_one(name: str = "one") -> Bus:
        bus: Bus
        if request.param == "memory":
            bus = broker.connect(name)
        else:
            gather_s = 0.01 if request.param == "gathering nats" else 0.0
            bus = await NatsBus.connect(server.address, name=name, gather_s=gather_s)
        opened.append(bus)
        return bus

    yield open_one
    for bus in opened:
        await bus.close()
