"""What a reader can type is what is told to be typed."""

from pathlib import Path

import pytest

from twd.supervisor.own_command import own_command


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "clone" / ".venv" / "bin" / "twd"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_program_that_the_shell_finds_is_called_by_its_name(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    link = tmp_path / "bin" / "twd"
    link.parent.mkdir()
    link.symlink_to(program)
    monkeypatch.setenv("PATH", str(link.parent))
    assert own_command(program) == "twd"


def test_one_that_it_does_not_find_is_called_by_its_path(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert own_command(program, tmp_path / "clone") == ".venv/bin/twd"
    assert own_command(program, tmp_path / "elsewhere") == str(program)


def test_another_one_of_that_name_is_not_this_one(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "bin" / "twd"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert own_command(program, tmp_path / "clone") == ".venv/bin/twd"
    assert own_command(tmp_path / "nowhere") == "twd", "run as a module, it has no program of its own"
