"""What a killed run left goes as soon as its process ended, whether or not anybody has reaped that yet."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import alive, wait_until
from twd.cli.deploy import unpack
from twd.cli.deploy.interpreter import SentPython
from twd.cli.deploy.looking import RemoteFacts
from twd.cli.deploy.scripts import python_script, take_back_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in /proc who waits to be reaped")


@pytest.fixture
def ended() -> Iterator[int]:
    """The number of a process that ended and is not reaped."""
    process = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    wait_until(lambda: not alive(process.pid), "it ends")
    os.kill(process.pid, 0)
    yield process.pid
    process.wait()


def unpacks(base: Path) -> list[str]:
    return [sys.executable, unpack.__file__, str(base), "1-abc"]


def sends_a_python(base: Path) -> list[str]:
    sent = SentPython(base, "python-3.99-abc", (3, 99))
    return ["sh", "-c", python_script(RemoteFacts(base=str(base), state=str(base)), sent)]


def takes_back(base: Path) -> list[str]:
    return ["sh", "-c", take_back_script(RemoteFacts(base=str(base), state=str(base), home=str(base)), "1-abc")]


@pytest.mark.parametrize(
    ("command", "folder"), [(unpacks, "versions"), (sends_a_python, "pythons"), (takes_back, "versions")]
)
def test_a_process_that_is_not_reaped_yet_left_it(
    command: Callable[[Path], list[str]], folder: str, ended: int, tmp_path: Path
) -> None:
    stale, at_work = (tmp_path / folder / f".new-{pid}" for pid in (ended, os.getpid()))
    stale.mkdir(parents=True)
    at_work.mkdir()
    subprocess.run(command(tmp_path), input=b"", capture_output=True, timeout=60, check=False)
    assert at_work.is_dir()
    assert not stale.exists()
