"""Two machines on this one: network namespaces with a cable between them, each with a name and a home of its own."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

DELAY_MS = 2.5
"""One way, so that a round trip takes 5 ms, where this kernel can delay packets."""
BIN = Path(sys.executable).parent
COMMAND_S = 300
_FETCH = """
import sys, urllib.error, urllib.request
asked = urllib.request.Request(sys.argv[1], sys.argv[2].encode() or None, {"Content-Type": "application/json"})
try:
    print(urllib.request.urlopen(asked, timeout=120).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""


class Machine:
    """A namespace, and a shell in it."""

    def __init__(self, name: str, namespace: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._namespace = namespace
        self._started: list[subprocess.Popen[bytes]] = []
        (folder / "models").mkdir(parents=True)

    def run(self, command: str, **env: str) -> str:
        """Run a line of shell to its end; its output."""
        done = subprocess.run(
            self._argv(command),
            env=self._env(env),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def start(self, command: str, **env: str) -> Path:
        """Run a line of shell that goes on; what it says is in the file."""
        log = self.folder / f"said-{len(self._started)}"
        with log.open("wb") as out:
            self._started.append(
                subprocess.Popen(
                    self._argv(command),
                    env=self._env(env),
                    cwd=self.folder,
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        return log

    def fetch(self, path: str, **body: Any) -> Any:
        """An answer of the API of this machine."""
        data = json.dumps(body) if body else ""
        words = [sys.executable, "-c", _FETCH, f"http://127.0.0.1:8088{path}", data]
        return json.loads(self.run(shlex.join(words)))

    def end(self) -> None:
        """End whatever was started here."""
        subprocess.run(self._argv("twd down"), env=self._env({}), cwd=self.folder, timeout=COMMAND_S, check=False)
        for process in self._started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._started:
            process.wait(60)

    def _argv(self, command: str) -> list[str]:
        shell = f"hostname {self.name}; {command}"
        return ["ip", "netns", "exec", self._namespace, "unshare", "--uts", "sh", "-c", shell]

    def _env(self, more: dict[str, str]) -> dict[str, str]:
        own = {"HOME": str(self.folder), "PATH": f"{BIN}:{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "200"}
        return {**os.environ, **own, **more}


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """A first and a second machine, gone in the end with all that ran on them."""
    if not (hasattr(os, "getuid") and os.getuid() == 0 and shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("network namespaces need root, ip and unshare")
    spaces = [f"twd{os.getpid()}{end}" for end in "ab"]
    if subprocess.run(["ip", "netns", "add", spaces[0]], check=False, capture_output=True).returncode:
        pytest.skip("this system gives no network namespaces")
    machines = []
    try:
        try:
            _connect(*spaces)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this system gives no cable between network namespaces: {error.stderr!r}")
        for name, space in zip(("first-machine", "second-machine"), spaces, strict=True):
            machines.append(Machine(name, space, folder / name))
        yield machines[0], machines[1]
    finally:
        for machine in reversed(machines):
            machine.end()
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def _connect(first: str, second: str) -> None:
    """A cable between two namespaces, of which the first is there."""
    lines = [f"ip netns add {second}", f"ip link add cable netns {first} type veth peer name cable netns {second}"]
    for number, space in enumerate((first, second), 1):
        lines += [f"ip -n {space} addr add 10.77.0.{number}/24 dev cable"]
        lines += [f"ip -n {space} link set {link} up" for link in ("lo", "cable")]
    for line in lines:
        subprocess.run(line.split(), check=True, capture_output=True)
    for space in (first, second):  # not every kernel can: then the way is short
        slow = f"tc -n {space} qdisc add dev cable root netem delay {DELAY_MS}ms"
        subprocess.run(slow.split(), check=False, capture_output=True)


def until_it_says(log: Path, words: str) -> None:
    """Wait for words in what a command says."""
    wait_until(lambda: words in log.read_text("utf-8", "replace"), f"{words!r} in {log}", COMMAND_S)
