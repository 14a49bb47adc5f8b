"""Old versions go: never one that is wanted, and whoever is killed meanwhile leaves nothing half."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.setup.versions.test_folder import add
from twd.setup.versions.folder import COMPLETE, VersionProblem, VersionsFolder
from twd.setup.versions.pruning import prune, superfluous

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0")
CHANGES = ("os.rename", "os.remove", "os.rmdir")


def nobody(roots: Sequence[Path]) -> Mapping[Path, int]:
    return {}


def five_versions(prefix: Path) -> VersionsFolder:
    """The last is in use, and the one before it known; each has a Python of its own that was sent."""
    folder = VersionsFolder(prefix)
    for age, version in enumerate(VERSIONS):
        add(folder, version)
        python = folder.prefix / "pythons" / f"python-{version}" / "bin" / "python3.11"
        python.parent.mkdir(parents=True)
        python.write_text("a program")
        (folder.folder_of(version) / "bin" / "python3").symlink_to(python)
        os.utime(folder.folder_of(version), (age, age))
        folder.take(version)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> VersionsFolder:
    return five_versions(tmp_path / "twd")


def there(folder: VersionsFolder) -> list[str]:
    return sorted(place.name for place in folder.versions.iterdir())


def pythons(folder: VersionsFolder) -> list[str]:
    return sorted(place.name for place in (folder.prefix / "pythons").iterdir())


def test_the_one_in_use_and_the_one_before_it_stay_with_their_pythons(folder: VersionsFolder) -> None:
    pruned = prune(folder, users=nobody)
    assert pruned.removed == VERSIONS[:3]
    assert pruned.freed > 0
    assert there(folder) == ["0.4.0", "0.5.0"]
    assert pythons(folder) == ["python-0.4.0", "python-0.5.0"]
    assert list(pruned.lines()) == ["removed 0.1.0, 0.2.0, 0.3.0: 0 MiB"]
    assert prune(folder, users=nobody).removed == ()


def test_after_going_back_both_stay(folder: VersionsFolder) -> None:
    folder.take("0.2.0")
    prune(folder, users=nobody)
    assert there(folder) == ["0.2.0", "0.5.0"]


def test_of_more_the_newest_stay_by_the_time_when_they_came(folder: VersionsFolder) -> None:
    os.utime(folder.folder_of("0.1.0"), (99, 99))
    prune(folder, keep=3, users=nobody)
    assert there(folder) == ["0.1.0", "0.4.0", "0.5.0"]


def test_what_a_real_process_runs_from_stays_until_it_ended(folder: VersionsFolder) -> None:
    command = [sys.executable, "-c", "input()", str(folder.program("0.2.0"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        pruned = prune(folder)
        process.kill()
    assert pruned.running == (("0.2.0", process.pid),)
    assert f"0.2.0 stays: process {process.pid} runs from it" in pruned.lines()
    assert there(folder) == ["0.2.0", "0.4.0", "0.5.0"]
    assert prune(folder).removed == ("0.2.0",)


def test_a_python_that_another_version_or_a_process_needs_stays(folder: VersionsFolder) -> None:
    link = folder.folder_of("0.5.0") / "bin" / "python3"
    link.unlink()
    link.symlink_to(folder.prefix / "pythons" / "python-0.1.0" / "bin" / "python3.11")
    prune(folder, users=lambda roots: {folder.prefix / "pythons" / "python-0.2.0": 7})
    assert pythons(folder) == ["python-0.1.0", "python-0.2.0", "python-0.4.0", "python-0.5.0"]


def test_one_that_begins_to_run_or_is_taken_meanwhile_comes_back_whole(folder: VersionsFolder) -> None:
    looks = iter([{}, {folder.versions / ".old-0.1.0": 7}])

    def users(roots: Sequence[Path]) -> Mapping[Path, int]:
        found = next(looks)
        if found:
            folder.current.unlink()
            folder.current.symlink_to("versions/0.2.0")
        return found

    assert prune(folder, users=users).removed == ("0.3.0",)
    assert there(folder) == ["0.1.0", "0.2.0", "0.4.0", "0.5.0"]
    assert folder.is_complete("0.1.0")


def test_what_a_failed_installation_left_goes_too(folder: VersionsFolder) -> None:
    add(folder, "0.6.0", complete=False)
    (folder.versions / ".new-77").mkdir()
    prune(folder, users=nobody)
    assert there(folder) == [".new-77", "0.4.0", "0.5.0"], "one that is made just now is left alone"


def test_where_none_is_in_use_all_stay(tmp_path: Path) -> None:
    folder = VersionsFolder(tmp_path)
    assert prune(folder, users=nobody).removed == ()
    for version in VERSIONS:
        add(folder, version)
    assert prune(folder, users=nobody).removed == ()
    assert there(folder) == list(VERSIONS)


def test_what_cannot_be_removed_is_told_and_hides_until_the_next_time(
    folder: VersionsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", _read_only)
        with pytest.raises(VersionProblem, match="cannot be removed: Read-only"):
            prune(folder, users=nobody)
    assert folder.listed() == ["0.4.0", "0.5.0"]
    assert set(prune(folder, users=nobody).removed) == set(VERSIONS[:3])


def _read_only(place: Path) -> None:
    raise OSError("Read-only file system")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the process that is killed is a fork of this one")
def test_killed_at_any_change_it_leaves_versions_that_are_whole(tmp_path: Path) -> None:
    changes = 0
    while _killed_at(changes, folder := five_versions(tmp_path / str(changes))):
        shown = [name for name in there(folder) if not name.startswith(".")]
        assert set(VERSIONS[3:]) <= set(shown)
        assert all((folder.folder_of(name) / COMPLETE).exists() and folder.program(name).exists() for name in shown)
        assert (folder.in_use(), folder.before()) == ("0.5.0", "0.4.0")
        prune(folder, users=nobody)
        assert there(folder) == ["0.4.0", "0.5.0"]
        assert pythons(folder) == ["python-0.4.0", "python-0.5.0"]
        changes += 1
    assert changes > 20


def _killed_at(change: int, folder: VersionsFolder) -> bool:
    """Prune in a process that is killed after so many changes of the disk; False if it came through."""
    child = os.fork()
    if not child:
        left = iter(range(change))

        def count(event: str, _: object) -> None:
            if event in CHANGES and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        prune(folder, users=nobody)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


@given(st.lists(st.integers(0, 9), unique=True), st.sets(st.integers(0, 9), max_size=2), st.integers(2, 12))
def test_what_is_needed_stays_and_so_do_the_newest(there: list[int], needed: set[int], keep: int) -> None:
    newest_first = list(map(str, there))
    wanted = set(map(str, needed))
    going = superfluous(newest_first, wanted, keep)
    stay = [version for version in newest_first if version not in going]
    assert not wanted & set(going)
    assert len(stay) == min(len(newest_first), keep)
    assert going == [version for version in newest_first if version in going][-len(going) :] if going else True
    others = [version for version in newest_first if version not in wanted]
    assert going == others[len(others) - len(going) :]
