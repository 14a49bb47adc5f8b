"""Partial files: what is marked was checked, whatever happened to the process or the disk."""

import errno
import os
from pathlib import Path

import pytest

from twd.pieces.checks import Checks
from twd.pieces.making import make_manifest
from twd.pieces.names import bitmap_of, part_of
from twd.pieces.partial import NoRoomForFile, PartialFile
from twd.pieces.tree import UNIT
from twd.wire.failures import TwdError

UNITS = 5
DATA = os.urandom(UNITS * UNIT - 1000)


@pytest.fixture
def checks(tmp_path: Path) -> Checks:
    (tmp_path / "source").write_bytes(DATA)
    return Checks.of(make_manifest(tmp_path / "source"))


def unit(index: int) -> bytes:
    return DATA[index * UNIT : (index + 1) * UNIT]


def begun(tmp_path: Path, checks: Checks, name: str = "root") -> PartialFile:
    return PartialFile(tmp_path / "model.gguf", name, checks)


def test_units_in_any_order_make_the_file(tmp_path: Path, checks: Checks) -> None:
    file = begun(tmp_path, checks)
    for index in (4, 0, 2, 1, 3):
        assert checks.holds(index, unit(index))
        assert file.put(index, unit(index))
        assert not file.put(index, b"twice does nothing")
    file.finish()
    assert (tmp_path / "model.gguf").read_bytes() == DATA
    assert not part_of(tmp_path / "model.gguf").exists()
    assert not bitmap_of(tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("in_order", [True, False])
def test_it_goes_on_where_it_was(tmp_path: Path, checks: Checks, in_order: bool) -> None:
    file = begun(tmp_path, checks)
    file.put(3, unit(3))
    file.close() if in_order else file._let_go()
    again = begun(tmp_path, checks)
    assert set(again.have) == {3}
    again.close()


def test_what_somebody_wrote_to_it_is_not_believed(tmp_path: Path, checks: Checks) -> None:
    file = begun(tmp_path, checks)
    for index in (1, 2):
        file.put(index, unit(index))
    file.close()
    with part_of(tmp_path / "model.gguf").open("r+b") as part:
        part.seek(UNIT + 5)
        part.write(b"flipped")
    again = begun(tmp_path, checks)
    assert set(again.have) == {2}
    again.close()


def test_a_bitmap_that_claims_too_much_is_not_believed(tmp_path: Path, checks: Checks) -> None:
    file = begun(tmp_path, checks)
    file._let_go()
    with bitmap_of(tmp_path / "model.gguf").open("r+b") as bits:
        bits.seek(512)
        bits.write(b"\xff")
    again = begun(tmp_path, checks)
    assert not again.have.count
    again.close()


def test_only_checked_bytes_are_read(tmp_path: Path, checks: Checks) -> None:
    file = begun(tmp_path, checks)
    file.put(1, unit(1))
    assert file.read(UNIT + 10, 100) == unit(1)[10:110]
    with pytest.raises(TwdError, match="does not have these bytes"):
        file.read(UNIT - 1, 2)
    file.close()


def test_one_name_and_two_roots(tmp_path: Path, checks: Checks) -> None:
    file = begun(tmp_path, checks, "first")
    file.put(0, unit(0))
    file.close()
    with pytest.raises(TwdError, match="part of another file"):
        begun(tmp_path, checks, "second")
    kept = begun(tmp_path, checks, "first")
    assert set(kept.have) == {0}
    kept.close()


def test_two_pullers_of_one_file(tmp_path: Path, checks: Checks) -> None:
    file = begun(tmp_path, checks)
    with pytest.raises(TwdError, match="another process"):
        begun(tmp_path, checks)
    file.close()


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    absurd = Checks.unknown(1 << 42)
    with pytest.raises(NoRoomForFile, match="make room there"):
        begun(tmp_path, absurd)
    assert not part_of(tmp_path / "model.gguf").exists() or part_of(tmp_path / "model.gguf").stat().st_size == 0


def test_a_disk_that_becomes_full_keeps_what_is_there(
    tmp_path: Path, checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = begun(tmp_path, checks)
    file.put(0, unit(0))
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", _no_space)
        with pytest.raises(OSError, match="No space"):
            file.put(1, unit(1))
    file.close()
    again = begun(tmp_path, checks)
    assert set(again.have) == {0}
    again.close()


def _no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_hashes_that_come_later(checks: Checks) -> None:
    late = Checks.unknown(checks.size)
    assert not late.holds(0, unit(0))
    late.learn(0, late.digest(unit(0)))
    assert late.holds(0, unit(0))
    with pytest.raises(TwdError, match="two hashes"):
        late.learn(0, bytes(32))


@pytest.mark.parametrize("in_order", [True, False])
def test_hashes_that_nobody_told_are_kept_with_the_units(tmp_path: Path, in_order: bool) -> None:
    file = begun(tmp_path, Checks.unknown(len(DATA)))
    for index in (1, 4):
        file.checks.learn(index, file.checks.digest(unit(index)))
        file.put(index, unit(index))
    file.close() if in_order else file._let_go()
    spoiled = bytes(UNIT)
    with part_of(tmp_path / "model.gguf").open("r+b") as bytes_of_it:
        bytes_of_it.seek(UNIT)
        bytes_of_it.write(spoiled)
    os.utime(part_of(tmp_path / "model.gguf"), (1, 1))
    again = begun(tmp_path, Checks.unknown(len(DATA)))
    assert set(again.have) == {4}
    assert again.checks.holds(4, unit(4))
    again.forget()
    assert again.checks.digests == [None] * UNITS
    again.close()
    assert set(begun(tmp_path, Checks.unknown(len(DATA))).have) == set()
