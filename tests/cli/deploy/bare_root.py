"""A bare Debian without Python, compiler or a route out: namespaces of its own, with a real sshd."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cli.deploy.ssh_servers import SSH_PORT, SshServer
from tests.waiting import wait_until

SUITE = "bookworm"
MAKE_S = 900
TOOLS = ("debootstrap", "unshare", "nsenter", "ip", "sshd")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
ENTER = """
set -e
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=$1,upperdir=$2/upper,workdir=$2/work $2/root
mount -t proc proc $2/root/proc
mount --rbind /dev $2/root/dev
mkdir -p $2/root/run/sshd $2/root/etc/twd-test
cp $2/host_key $2/authorized $2/sshd_config $2/root/etc/twd-test/
chmod 600 $2/root/etc/twd-test/*
if [ -n "$3" ]; then mkdir -p $2/root/root && mount -t tmpfs -o size=$3 tmpfs $2/root/root; fi
ip link set lo up
exec chroot $2/root /usr/sbin/sshd -D -e -f /etc/twd-test/sshd_config
"""
CONFIG = """
HostKey /etc/twd-test/host_key
AuthorizedKeysFile /etc/twd-test/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
"""


def bare_root(cache: Path, *packages: str) -> Path:
    """Return a root made by debootstrap, once, with these packages. Skips the test where that is not possible."""
    missing = [name for name in TOOLS if not shutil.which(name, path=PATH)]
    if sys.platform != "linux" or os.getuid() != 0 or missing:
        pytest.skip(f"needs Linux, root, and {', '.join(missing or TOOLS)}")
    made = cache / "-".join(("bare", SUITE, *packages))
    if not made.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        draft = made.with_name(f"{made.name}.{os.getpid()}")
        include = ",".join(("openssh-server", *packages))
        command = ["debootstrap", "--variant=minbase", f"--include={include}", SUITE, str(draft)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=MAKE_S, env={**os.environ, "PATH": PATH}
        )
        if done.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            pytest.skip(f"debootstrap does not get a Debian: {done.stdout[-300:]}{done.stderr[-300:]}")
        draft.rename(made)
    return made


class BareMachine(SshServer):
    """One such machine; only this host can be reached from it."""

    first = "sshd"
    """The name of its first process."""
    script = ENTER
    namespaces: tuple[str, ...] = ("--net", "--mount", "--pid")

    def __init__(self, name: str, folder: Path, root: Path, disk: str = "") -> None:
        """`disk`: the size of root's home, as for tmpfs; else that of the disk."""
        super().__init__(name, folder)
        self.port = SSH_PORT
        self.disk = disk
        net = os.getpid() % 4000 * 16
        self.here, self.there = (f"198.18.{net >> 8}.{(net & 255) + host}" for host in (1, 2))
        self.address = self.there
        self.link = f"twd{os.getpid()}"
        self._lower = root
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir()

    def start(self, authorized: Path, **more: str) -> None:
        """Start it, and lay the one cable."""
        shutil.copy(authorized, self.folder / "authorized")
        (self.folder / "sshd_config").write_text(CONFIG + "".join(f"{key} {value}\n" for key, value in more.items()))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env={**os.environ, "PATH": PATH})
        wait_until(lambda: self.inside() is not None, f"{self.first} of {self.name} runs")
        _ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self.inside()))
        _ip("addr", "add", f"{self.here}/30", "dev", self.link)
        _ip("link", "set", self.link, "up")
        self.enter("ip", "addr", "add", f"{self.there}/30", "dev", "eth0")
        self.enter("ip", "link", "set", "eth0", "up")

    def command(self) -> list[str]:
        """What is started here: its first process, in namespaces of its own."""
        apart = ["unshare", *self.namespaces, "--fork", "--kill-child"]
        return [*apart, "sh", "-c", self.script, "enter", str(self._lower), str(self.folder), self.disk]

    def inside(self) -> int | None:
        """Return the id of its first process, as seen from here."""
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        children = psutil.Process(self.process.pid).children()
        return next((one.pid for one in children if one.name() == self.first), None)

    def enter(self, *command: str) -> None:
        """Run a program of this host in its network."""
        subprocess.run(["nsenter", "-t", str(self.inside()), "-n", *command], check=True, env={"PATH": PATH})

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script in it, as root there."""
        command = ["nsenter", "-t", str(self.inside()), "-n", "-m", "-p", "chroot", str(self.folder / "root")]
        clean = {"PATH": PATH, "HOME": "/root"}
        return subprocess.run(
            [*command, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=120, env=clean
        )

    def stop(self) -> None:
        """End it with all that runs in it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def running(self) -> list[psutil.Process]:
        """Nothing is left: all ended with the first process of its namespace."""
        return []


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, env={"PATH": PATH})


@contextmanager
def bare_machine(name: str, folder: Path, root: Path, disk: str = "") -> Iterator[BareMachine]:
    """A machine that is gone afterwards."""
    machine = BareMachine(name, folder, root, disk)
    try:
        yield machine
    finally:
        machine.stop()
