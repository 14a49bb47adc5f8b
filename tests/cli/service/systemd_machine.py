"""A Debian whose first process is a real systemd, in namespaces and a control group of its own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.deploy.bare_root import PATH, BareMachine, bare_root
from tests.waiting import wait_until

PACKAGES = ("systemd-sysv",)
GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
"""Where version 2 of control groups is mounted, alone or beside version 1."""
RUN_S = 120
BOOT = """
set -e
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mkdir -p "$2/root/etc/twd-test" "$2/root/etc/ssh/sshd_config.d"
cp "$2/host_key" "$2/authorized" "$2/root/etc/twd-test/"
chmod 600 "$2/root/etc/twd-test/host_key" "$2/root/etc/twd-test/authorized"
cp "$2/sshd_config" "$2/root/etc/ssh/sshd_config.d/twd-test.conf"
cd "$2/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
ip link set lo up
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=twd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init --show-status=no
"""
JOIN_GROUP = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


def groups_here() -> Path:
    """Where control groups of version 2 can be made. Skips the test where they cannot."""
    found = next((one for one in GROUPS if (one / "cgroup.procs").exists()), None)
    if found is None or not os.access(found / "cgroup.procs", os.W_OK):
        pytest.skip("needs control groups of version 2 that can be written")
    return found


class SystemdMachine(BareMachine):
    """One such machine; services start, are watched and end as on any other."""

    first = "systemd"
    script = BOOT
    namespaces: tuple[str, ...] = ("--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup")

    def __init__(self, name: str, folder: Path, root: Path) -> None:
        super().__init__(name, folder, root)
        self.group = groups_here() / f"twd-test-{os.getpid()}"

    def command(self) -> list[str]:
        """Before its namespaces are made, it goes into a control group that it then sees as the topmost one."""
        self.group.mkdir(exist_ok=True)
        return ["sh", "-c", JOIN_GROUP, str(self.group), *super().command()]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script in it, as root there."""
        command = ["nsenter", "-t", str(self.inside()), "-n", "-m", "-p", "-u", "-i", "-r", "-w", "sh", "-c", script]
        clean = {"PATH": PATH, "HOME": "/root"}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_S, env=clean)

    def shown(self, unit: str, what: str) -> str:
        """What `systemctl show` says of one property of a unit."""
        return self.run(f"systemctl show --property={what} --value {unit}").stdout.strip()

    def stop(self) -> None:
        """End it with all that runs in it, and remove its control groups."""
        super().stop()
        if self.group.is_dir():
            wait_until(lambda: self._emptied(), "its control groups are empty")

    def _emptied(self) -> bool:
        with suppress(OSError):
            for place, _, _ in os.walk(self.group, topdown=False):
                Path(place).rmdir()
        return not self.group.exists()


@contextmanager
def systemd_machine(name: str, folder: Path, cache: Path) -> Iterator[SystemdMachine]:
    """A machine that is gone afterwards. Skips the test where none can be made."""
    groups_here()
    machine = SystemdMachine(name, folder, bare_root(cache, *PACKAGES))
    try:
        yield machine
    finally:
        machine.stop()
