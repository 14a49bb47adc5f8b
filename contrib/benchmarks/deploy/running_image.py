"""Runs an image as Docker does by default: namespaces and a network of its own, no capabilities, volumes bound in."""

import os
import signal
import subprocess
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final

from image import APART, CACHE, TOOLS, Image

SECONDS_TO_END: Final = 60
ENTER: Final = """
set -e
folder=$2 user=$3 mounts=$4 root=$2/root lower=$1
shift 4
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/dev/shm"
for one in $mounts; do
    source=${one%%:*} target=$root${one#*:}
    if [ -d "$source" ]; then mkdir -p "${target%:ro}"; else touch "${target%:ro}"; fi
    mount --bind "$source" "${target%:ro}"
    [ "$target" = "${target%:ro}" ] || mount -o remount,bind,ro "${target%:ro}"
done
exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs \\
    --inh-caps=-all --bounding-set=-all -- "$@"
"""
_NUMBERS: Final = count()


class RunningImage:
    """One container."""

    def __init__(
        self, image: Image, folder: Path, mounts: tuple[str, ...] = (), env: Mapping[str, str] | None = None
    ) -> None:
        """`mounts`: SOURCE:TARGET or SOURCE:TARGET:ro, as `docker run -v` takes them."""
        self._image, self._folder, self._mounts = image, folder, mounts
        self.env = {**image.env, "HOME": "/", **(env or {})}
        for part in ("upper", "work", "root"):
            (folder / part).mkdir(parents=True)
        number = next(_NUMBERS)
        self._link = f"twd{os.getpid()}x{number}"
        net = (os.getpid() * 7 + number) % 16000 * 4
        self.outside, self.inside = (f"198.19.{net >> 8}.{(net & 255) + host}" for host in (1, 2))

    def __enter__(self) -> "RunningImage":
        _ip("netns", "add", self._link)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._link)
        _ip("addr", "add", f"{self.outside}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        for words in (("addr", "add", f"{self.inside}/30", "dev", "eth0"), *_UP):
            _ip("-n", self._link, *words)
        return self

    def start(self, *command: str) -> None:
        """Start its entrypoint."""
        mounts = " ".join(self._mounts)
        apart = ["nsenter", f"--net=/run/netns/{self._link}", *APART, "--uts", "--ipc"]
        words = [self._image.lowerdir, str(self._folder), self._image.user, mounts, *self._image.entrypoint, *command]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*apart, "/bin/sh", "-c", ENTER, "enter", *words], cwd=CACHE, env=self.env, stdout=log, stderr=log
            )

    def source(self, target: str) -> Path:
        """What is bound in at this place."""
        return next(Path(one.split(":")[0]) for one in self._mounts if one.split(":")[1] == target)

    @property
    def log(self) -> str:
        """What it said so far."""
        return (self._folder / "log").read_text()

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as `docker exec`."""
        user, group = self._image.user.split(":")
        there = ["nsenter", "-t", str(self._first()), "-m", "-p", "-n", "-u", "-i", "--root", "env", "--chdir=/"]
        as_user = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
        return subprocess.run([*there, *as_user, *command], env=self.env, capture_output=True, text=True, check=False)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its first process."""
        os.kill(self._first(), number)

    def wait(self, seconds: float = SECONDS_TO_END) -> int:
        """Wait for its end; the exit code."""
        return self._process.wait(seconds)

    def _first(self) -> int:
        tasks = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(tasks.read_text().split()[0])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(SECONDS_TO_END)
        _ip("link", "del", self._link)
        _ip("netns", "del", self._link)


_UP: Final = (("link", "set", "eth0", "up"), ("link", "set", "lo", "up"))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, env={"PATH": TOOLS})
