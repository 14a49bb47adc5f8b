"""Processes that are born, not started. Real ones: each scene plays in a process with one thread."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.fork_server_scenes import SCENES
from twd.process import platform
from twd.process.fork_server import OURS, ForkServer


@pytest.mark.skipif(not platform.can_adopt(), reason="no fork server on this system")
@pytest.mark.parametrize("scene", SCENES)
def test_in_a_process_of_its_own(scene: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.process.fork_server_scenes", scene, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_where_there_is_none_processes_start_in_the_usual_way(tmp_path: Path) -> None:
    def fault(task: str, error: BaseException) -> None:
        raise AssertionError(f"{task} failed: {error!r}")

    fork_server = ForkServer(None, {}, fault)
    await fork_server.open()
    fork_server.prepare((*OURS, "run", "stage"))
    assert fork_server.pid == 0
    assert await fork_server.birth((*OURS, "--version"), {}, tmp_path / "log") is None
    await fork_server.close()
