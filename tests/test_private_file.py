"""Files that only their owner can read: whole or not at all, and nothing left beside them."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from twd.private_file import create_private, write_private


def test_a_private_file_is_written_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    target.chmod(0o644)
    write_private(target, b"new")
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_threads_write_beside_each_other(tmp_path: Path) -> None:
    target = tmp_path / "file"
    texts = [bytes([65 + number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_private, target, text) for text in texts]:
            done.result()
    assert target.read_bytes() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_private(target, b"new")
    with pytest.raises(OSError, match="no space"):
        create_private(tmp_path / "other", b"new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_somebody_else_created_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"
    create_private(target, b"first")
    create_private(target, b"second")
    assert target.read_bytes() == b"first"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
