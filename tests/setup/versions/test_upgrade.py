"""Real processes of several versions: one takes over from another, and comes back where the new one does not work."""

import http.client
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.running import Installed
from tests.rules.source import PACKAGE
from twd.process.home import RunningInstance, StateFolder
from twd.setup.versions.folder import COMPLETE, VersionProblem, VersionsFolder
from twd.setup.versions.houses import DetachedHouse, SystemTime
from twd.setup.versions.takeover import Takeover, TakeoverPolicy
from twd.setup.versions.trial import VersionTrial

pytestmark = [pytest.mark.e2e, pytest.mark.nats, pytest.mark.slow]

POLICY = TakeoverPolicy(ready_s=30.0, settled_s=4.0)
DOES_NOT_START = 'raise RuntimeError("this version is broken")\n'
CRASHES = """
import os, threading
_begin = MetricsService.__init__
def _crash_soon(self, *given):
    _begin(self, *given)
    threading.Timer(2.0, lambda: os._exit(1)).start()
MetricsService.__init__ = _crash_soon
"""
PROGRAM = """#!{python}
import sys
sys.path.insert(0, {site!r})
sys.path.append({others!r})
from twd.cli import main
sys.argv[0] = "twd"
main()
"""


def add(folder: VersionsFolder, version: str, fault: str = "") -> None:
    """A version of its own: a copy of this program with another number, and perhaps a fault."""
    place = folder.folder_of(version)
    site = place / "site"
    shutil.copytree(PACKAGE, site / "twd")  # with what is compiled: to compile it all takes seconds
    begin = site / "twd/__init__.py"
    begin.write_text(begin.read_text().replace(_own_version(), version))
    if fault:
        broken = site / ("twd/metrics/service.py" if fault == CRASHES else "twd/cli/__init__.py")
        broken.write_text(f"{broken.read_text()}\n{fault}")
    program = folder.program(version)
    program.parent.mkdir()
    others = sysconfig.get_path("purelib")
    program.write_text(PROGRAM.format(python=sys.executable, site=str(site), others=others))
    program.chmod(0o755)
    (place / COMPLETE).touch()


def _own_version() -> str:
    import twd

    return twd.__version__


class Upgraded:
    """An installation with versions, and what runs of it."""

    def __init__(self, installed: Installed) -> None:
        self.installed = installed
        self.home = StateFolder(installed.home)
        self.folder = VersionsFolder(installed.home.parent / "twd")
        self.said: list[str] = []
        add(self.folder, "0.1.0")
        self.folder.take("0.1.0")

    def up(self) -> RunningInstance:
        """Start the version in use."""
        env = {**self.installed.env, "PYTHONPATH": str(self.folder.current / "site")}
        command = [str(self.folder.program()), "up", "-d", "metrics", "edge"]
        done = subprocess.run(command, env=env, cwd=self.installed.home.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return self.running

    @property
    def running(self) -> RunningInstance:
        """What runs now."""
        instance = self.home.running()
        assert instance is not None
        return instance

    def take(self, version: str) -> None:
        """Let a version take over."""
        house = DetachedHouse(self.home, self.folder)
        Takeover(self.folder, house, POLICY, SystemTime(), self.said.append).take(version)


@pytest.fixture
def upgraded(installed: Installed) -> Upgraded:
    return Upgraded(installed)


@contextmanager
def asked_all_the_time(port: int) -> Iterator[list[int]]:
    """Ask the API again and again, each time by a connection of its own, and never twice; yields the answers."""
    answers: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("GET", "/v1/models")
                answers.append(connection.getresponse().status)
            except (OSError, http.client.HTTPException):
                answers.append(0)
            finally:
                connection.close()

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield answers
    finally:
        ended.set()
        asker.join(70)


def test_a_new_version_takes_over_and_goes_back(upgraded: Upgraded) -> None:
    before = upgraded.up()
    assert before.version == "0.1.0"
    add(upgraded.folder, "0.2.0")
    with asked_all_the_time(upgraded.installed.port) as answers:
        upgraded.take("0.2.0")
    assert len(answers) > 1
    assert set(answers) == {http.client.OK}, "the port was never closed"
    after = upgraded.running
    assert after.version == "0.2.0"
    assert set(after.processes) == set(before.processes) == {"broker", "metrics", "edge"}
    assert upgraded.folder.before() == "0.1.0"
    upgraded.take(upgraded.folder.before())  # as `twd rollback` does
    assert upgraded.running.version == "0.1.0"
    assert upgraded.installed.twd("down").returncode == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("fault", "words"),
    [(DOES_NOT_START, "this version is broken"), (CRASHES, "metrics ended, and was started again")],
)
def test_a_version_that_does_not_work_is_taken_back(upgraded: Upgraded, fault: str, words: str) -> None:
    upgraded.up()
    add(upgraded.folder, "0.3.0", fault)
    with pytest.raises(VersionProblem, match=words):
        upgraded.take("0.3.0")
    assert upgraded.running.version == "0.1.0"
    assert upgraded.running.ready
    assert upgraded.folder.in_use() == "0.1.0"
    assert upgraded.said[-1] == "0.1.0 is back"
    assert upgraded.installed.twd("down").returncode == 0


@pytest.mark.thorough
def test_the_doctor_of_a_version_that_does_not_start_says_so(upgraded: Upgraded) -> None:
    add(upgraded.folder, "0.3.0", DOES_NOT_START)
    add(upgraded.folder, "0.2.0")

    def trial(version: str) -> VersionTrial:
        program, old = upgraded.folder.program(version), upgraded.folder.program("0.1.0")
        return VersionTrial(program, old, (), upgraded.installed.env)

    trial("0.2.0").doctor()
    with pytest.raises(VersionProblem, match="this version is broken"):
        trial("0.3.0").doctor()


@pytest.mark.thorough
def test_what_runs_in_a_terminal_is_left_alone(upgraded: Upgraded) -> None:
    with upgraded.installed.foreground("metrics") as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("ready in ") for line in iter(process.stdout.readline, ""))
            with pytest.raises(VersionProblem, match="end it there"):
                DetachedHouse(upgraded.home, upgraded.folder)
        finally:
            process.terminate()
        process.stdout.read()
