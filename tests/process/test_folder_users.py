"""Who runs from a folder: known by its program, a library, a word of its command line, or where it is."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_until
from twd.process.folder_users import users_below

LOADS = """
import mmap, sys
with open(sys.stdin.readline().strip(), "rb") as file:
    held = mmap.mmap(file.fileno(), 0, prot=1)
input()
"""


@contextmanager
def running(*command: str, cwd: Path | None = None, said: str = "") -> Iterator[int]:
    with subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(said.encode())
        process.stdin.flush()
        yield process.pid
        process.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "a folder (1)+" / "versions"
    for name in ("one", "two"):
        (root / name).mkdir(parents=True)
        (root / name / "library").write_bytes(b"\x7fELF" * 1024)
    return root


def test_a_word_of_its_command_line(root: Path) -> None:
    with running(sys.executable, "-c", "input()", str(root / "one" / "bin" / "twd")) as pid:
        assert users_below([root]) == {root / "one": pid}
    assert users_below([root]) == {}


def test_where_it_is_also_by_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with running(sys.executable, "-c", "input()", cwd=root / "two") as pid:
        wait_until(lambda: users_below([tmp_path / "link"]) == {tmp_path / "link" / "two": pid}, "it began")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which libraries a process has loaded")
def test_a_library_that_it_has_loaded_also_after_the_folder_moved(root: Path) -> None:
    with running(sys.executable, "-c", LOADS, said=f"{root / 'one' / 'library'}\n") as pid:
        wait_until(lambda: users_below([root]) == {root / "one": pid}, "it is loaded")
        (root / "one").rename(root / ".old-one")
        assert users_below([root]) == {root / ".old-one": pid}


@pytest.mark.skipif(sys.platform == "win32", reason="`sleep` is a program of POSIX")
def test_its_program(root: Path) -> None:
    program = shutil.copy(shutil.which("sleep") or "", root / "two" / "quiet")
    with running("sh", "-c", "exec ./quiet 60", cwd=root / "two") as pid:
        wait_until(lambda: users_below([root]) == {root / "two": pid}, "it began")
    assert Path(program).exists()
