"""A connection cut at any byte, a remote shell that is killed, a disk that is full: as before, or the same command ends
the job."""

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.cli.deploy.small_packages import small_bundle
from tests.cli.deploy.ssh_servers import SshServer, SshWorld, ssh_world
from tests.waiting import wait_until
from twd.bus.join import PREFIX, JoinToken
from twd.bus.seeds import draw_raw
from twd.cli.deploy.report import HostReport
from twd.cli.deploy.run import DeployPlan, HostDeployment
from twd.cli.deploy.ssh import RemoteShell
from twd.cli.deploy.targets import DeployTarget
from twd.cli.deploy.wheels import WheelBundle

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BYTES_OF_A_RUN = 480_000
"""About what one deployment of the small package sends and hears."""
ROOM_KIB = 320
"""What the small package alone fills."""


class CutProxy:
    """Passes bytes on to an ssh server until so many have passed; then it breaks the connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.left = 1 << 40
        self.stays_away = False
        self.instead: Callable[[], None] | None = None
        """What happens instead of a cut, if anything does."""
        self.cut = False
        self._ways: set[asyncio.Task[None]] = set()

    def arm(self, after: int, stays_away: bool) -> None:
        """Cut once after so many bytes."""
        self.left, self.stays_away, self.cut = after, stays_away, False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Listen; all connections are closed in the end. Yields the port."""
        server = await asyncio.start_server(self._came, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for way in self._ways:
                way.cancel()
            await asyncio.gather(*self._ways, return_exceptions=True)
            self._ways.clear()

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (way := asyncio.current_task()) is not None:
            self._ways.add(way)
        if self.cut and self.stays_away:
            writer.close()
            return
        there, there_in = await asyncio.open_connection("127.0.0.1", self.port)
        both = (writer, there_in)
        try:
            await asyncio.gather(self._pass(reader, there_in, both), self._pass(there, writer, both))
        finally:
            for stream in both:
                stream.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, both: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        with suppress(ConnectionError):
            while part := await reader.read(1 << 14):
                if not self.cut and self._is_over(len(part)):
                    for stream in both:
                        stream.transport.abort()
                    return
                writer.write(part)
                await writer.drain()
            writer.write_eof()

    def _is_over(self, count: int) -> bool:
        """Count bytes; returns whether the connection breaks now."""
        self.left -= count
        self.cut = self.left < 0
        if self.cut and self.instead is not None:
            self.instead()
            return False
        return self.cut


@dataclass
class PlayedMembers:
    """An installation whose members are the machines that hold an identity."""

    home: Path
    fingerprint: str = "ab" * 32
    removed: set[str] = field(default_factory=set)

    async def token(self) -> JoinToken:
        self.removed.clear()
        return JoinToken(("first:4222",), self.fingerprint, draw_raw())

    async def revoke(self, token: JoinToken) -> None:
        """A token is worth nothing here."""

    async def remove(self, node: str, token: JoinToken) -> None:
        self.removed.add(node)

    def taken(self, node: str) -> bool:
        there = self.home / ".twd" / "joined.json"
        return node not in self.removed and there.exists() and node in there.read_text()

    def reserve(self, node: str) -> bool:
        return True

    async def lease(self, node: str, wait_s: float) -> str:
        return "2 cores" if (self.home / ".twd" / "running").exists() and self.taken(node) else ""


@dataclass
class Target:
    """One machine behind a proxy, and what is deployed to it."""

    server: SshServer
    world: SshWorld
    members: PlayedMembers
    proxy: CutProxy

    async def deploy(self, bundle: WheelBundle) -> HostReport:
        """One run of the command."""
        plan = DeployPlan(bundle, lambda folder: b"# written by `twd deploy`\n", False)
        report = HostReport("alpha", lambda line: None)
        async with self.proxy.listening() as port:
            self.world.reach(self.server, port)
            await HostDeployment(RemoteShell(DeployTarget("alpha")), plan, self.members, report).run()
        return report

    def quiet(self) -> None:
        """Wait until nothing of ours runs there any more."""
        wait_until(lambda: not self.server.running(), "nothing runs there", 20)

    def state(self) -> dict[str, str]:
        """Every file and link there."""
        found = {}
        for path in sorted(self.server.home.rglob("*")):
            if "__pycache__" not in path.parts and not (path.is_dir() and not path.is_symlink()):
                found[str(path.relative_to(self.server.home))] = os.readlink(path) if path.is_symlink() else ""
        return found

    def whole(self) -> None:
        """No file is half written, and whatever is in use is there whole."""
        base = self.server.home / ".local" / "share" / "twd"
        assert not [name for name in self.state() if ".new" in name], self.state()
        for link in ("current", "previous"):
            if (base / link).is_symlink():
                assert (base / link / "twd-complete").exists(), self.state()


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    with ssh_world(tmp_path / "there", "alpha") as world:
        world.start(MaxStartups="100")
        monkeypatch.setenv("PATH", f"{world.bin}:{os.environ['PATH']}")
        server = world.servers["alpha"]
        yield Target(server, world, PlayedMembers(server.home), CutProxy(server.port))


async def cut_often(target: Target, tmp_path: Path, times: int, seed: int, kills: bool) -> int:
    """Deploy one version after another, each cut once at random; returns how often the first try did not end it."""
    chance = random.Random(seed)
    unfinished = 0
    target.proxy.instead = (lambda: kill_all(target.server)) if kills else None
    for number in range(times):
        bundle = small_bundle(tmp_path, f"0.1.{number}")
        before = target.state()
        target.proxy.arm(chance.randrange(BYTES_OF_A_RUN), stays_away=chance.random() < 0.5 and not kills)
        report = await target.deploy(bundle)
        target.quiet()
        target.whole()
        undone = [step for step in report.steps if step.name.startswith("undo ")]
        if report.error and all(step.state == "taken back" for step in undone):
            assert target.state() == before, report
        unfinished += bool(report.error)
        target.proxy.arm(1 << 40, stays_away=False)
        again = await target.deploy(bundle)
        assert again.error == "", again
        assert os.readlink(target.server.home / ".local/share/twd/current") == f"versions/{bundle.name}"
        target.whole()
    return unfinished


def kill_all(server: SshServer) -> None:
    """Kill the remote shell and all that it started."""
    for process in server.running():
        if process.name() not in ("sshd", "sshd-session"):
            os.kill(process.pid, signal.SIGKILL)


async def test_a_cut_at_any_byte_leaves_nothing_half_done(target: Target, tmp_path: Path) -> None:
    assert await cut_often(target, tmp_path, 2, seed=1, kills=False)


@pytest.mark.thorough
@pytest.mark.parametrize("kills", [False, True])
async def test_many_cuts(target: Target, tmp_path: Path, kills: bool) -> None:
    assert await cut_often(target, tmp_path, 30, seed=2, kills=kills) > 5
    assert PREFIX not in target.world.said.read_text()


@contextmanager
def disk_of(place: Path, kib: int) -> Iterator[Callable[[int], None]]:
    """A disk of so many KiB at a place; what is yielded gives it another size."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("no disk can be mounted here")

    def resize(wanted: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={wanted}k", str(place)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("kib", [4, *(pytest.param(kib, marks=pytest.mark.thorough) for kib in (64, 320, 340, 356))])
async def test_a_full_disk_leaves_nothing_and_with_room_the_same_command_ends_it(
    target: Target, tmp_path: Path, kib: int
) -> None:
    bundle = replace_needs(small_bundle(tmp_path, "0.1.0"))
    with disk_of(target.server.home, kib) as resize:
        full = await target.deploy(bundle)
        target.quiet()
        assert full.error or kib > ROOM_KIB
        if full.error:
            assert "No space left" in full.error, full
            assert target.state() == {}
        else:
            target.whole()
        resize(4096)
        done = await target.deploy(bundle)
        assert done.error == "", done
        target.whole()


def replace_needs(bundle: WheelBundle) -> WheelBundle:
    """The bundle as if it needed no room: else the machine is refused when it is looked at."""
    return replace(bundle, needs=replace(bundle.needs, size=0))
