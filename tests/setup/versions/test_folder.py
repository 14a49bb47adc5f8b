"""Versions side by side: which there are, which is in use, and which was before."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.setup.versions.folder import COMPLETE, VersionProblem, VersionsFolder, order


@pytest.fixture
def folder(tmp_path: Path) -> VersionsFolder:
    return VersionsFolder(tmp_path / "twd")


def add(folder: VersionsFolder, version: str, complete: bool = True) -> None:
    place = folder.folder_of(version)
    (place / "bin").mkdir(parents=True)
    (place / "bin/twd").write_text(version)
    if complete:
        (place / COMPLETE).touch()


def test_a_version_is_taken_in_one_step_and_the_one_before_is_known(folder: VersionsFolder) -> None:
    for version in ("0.1.0", "0.2.0"):
        add(folder, version)
        folder.take(version)
    assert (folder.in_use(), folder.before()) == ("0.2.0", "0.1.0")
    assert folder.program().read_text() == "0.2.0"
    assert os.readlink(folder.current) == "versions/0.2.0"  # so the whole folder can be moved
    folder.take("0.1.0")
    assert (folder.in_use(), folder.before()) == ("0.1.0", "0.2.0")
    assert sorted(path.name for path in folder.prefix.iterdir()) == ["current", "previous", "versions"]


def test_what_is_not_whole_is_not_taken(folder: VersionsFolder) -> None:
    add(folder, "0.1.0")
    folder.take("0.1.0")
    add(folder, "0.2.0", complete=False)
    with pytest.raises(VersionProblem, match=r"not there whole; there are: 0\.1\.0"):
        folder.take("0.2.0")
    folder.remove_rest("0.1.0")
    folder.remove_rest("0.2.0")
    assert folder.listed() == ["0.1.0"]
    assert not folder.folder_of("0.2.0").exists()


def test_a_version_that_something_else_put_there_and_that_was_in_use_comes_back(folder: VersionsFolder) -> None:
    add(folder, "0.1.0", complete=False)
    folder.current.symlink_to("versions/0.1.0")
    add(folder, "0.2.0")
    folder.take("0.2.0")
    assert folder.before() == "0.1.0"
    folder.take("0.1.0")
    assert folder.listed() == ["0.1.0", "0.2.0"]


@pytest.mark.parametrize("name", ["", "..", "../../etc", "1.0/2", "latest", "-rf", "1.0\n"])
def test_what_is_no_version_is_refused(folder: VersionsFolder, name: str) -> None:
    with pytest.raises(VersionProblem, match="is no version"):
        folder.folder_of(name)


def test_a_program_finds_its_installation(folder: VersionsFolder) -> None:
    add(folder, "0.1.0")
    folder.take("0.1.0")
    for python in (folder.folder_of("0.1.0") / "bin/python", folder.current / "bin/python"):
        found = VersionsFolder.of_program(str(python))
        assert found is not None
        assert found.prefix == folder.prefix
    assert VersionsFolder.of_program("/usr/bin/python3") is None
    assert VersionsFolder.of_program(str(folder.prefix / ".venv/bin/python")) is None


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.9.0", "0.10.0"), ("1.0rc1", "1.0"), ("1.0", "1.0.1"), ("0.2.0.dev1", "0.3.0"), ("1.0a1", "1.0b1")],
)
def test_order(older: str, newer: str) -> None:
    assert order(older) < order(newer)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_numbers_decide(one: list[int], other: list[int]) -> None:
    def trimmed(parts: list[int]) -> list[int]:
        return trimmed(parts[:-1]) if parts and not parts[-1] else parts

    texts = [".".join(map(str, parts)) for parts in (one, other)]
    assert (order(texts[0]) < order(texts[1])) == (trimmed(one) < trimmed(other))
