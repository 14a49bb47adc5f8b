"""Weights on a worker's disk: only what is whole is kept, the longest unused goes first, others' are left alone."""

import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from twd.engine.rpc import tensor_cache
from twd.engine.rpc.fnv import fnv1a
from twd.engine.rpc.tensor_cache import TensorCache, by_worker, contents

SIZE = 64 * 1024
ROOMY = 100 * SIZE


class RoomyDisk(NamedTuple):
    total: int = 200 * SIZE
    used: int = 0
    free: int = 200 * SIZE


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests do not depend on how full the disk of this machine is."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: RoomyDisk())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "node.rpc"


def weights(number: int) -> bytes:
    return bytes([number]) * SIZE


def written(folder: Path, number: int, cut: int = 0) -> Path:
    """As llama.cpp writes them; `cut` bytes did not fit on the disk."""
    path = folder / f"{fnv1a(weights(number)):016x}"
    path.write_bytes(weights(number)[: SIZE - cut])
    return path


def kept(cache: TensorCache, number: int) -> Path:
    path = written(cache.folder, number)
    cache.put_aside()
    assert cache.check_next() == path
    return path


def unused(path: Path, for_s: float) -> Path:
    os.utime(path, (time.time() - for_s,) * 2)
    return path


def test_what_is_whole_is_out_of_sight_until_it_was_hashed(folder: Path) -> None:
    cache = TensorCache(folder, ROOMY)
    path = written(folder, 1)
    cache.put_aside()
    assert not path.exists()
    assert cache.check_next() == path
    cache.put_aside()
    assert path.read_bytes() == weights(1)


@pytest.mark.parametrize("cut", [1, 4096, SIZE])
def test_what_the_disk_cut_short_is_dropped(folder: Path, cut: int) -> None:
    cache = TensorCache(folder, ROOMY)
    written(folder, 1, cut)
    cache.put_aside()
    assert cache.check_next() is None
    assert not contents(folder.parent)


def test_a_second_copy_changes_nothing_about_the_one_that_waits_for_its_check(folder: Path) -> None:
    cache = TensorCache(folder, ROOMY)
    path = written(folder, 1)
    cache.put_aside()
    written(folder, 1, cut=1)
    cache.put_aside()
    assert not path.exists()
    assert cache.check_next() == path
    assert path.read_bytes() == weights(1)


def test_what_a_killed_worker_left_is_checked_by_the_next(folder: Path) -> None:
    folder.mkdir(parents=True)
    whole, cut = written(folder, 1), written(folder, 2, cut=1)
    waiting = written(folder, 3)
    waiting.rename(waiting.with_name(waiting.name + ".unchecked"))
    cache = TensorCache(folder, ROOMY)
    assert not whole.exists()
    assert not cut.exists()
    assert {cache.check_next() for _ in range(3)} == {whole, None, waiting}
    assert {one.path for one in contents(folder.parent)} == {whole, waiting}


def test_the_longest_unused_makes_room(folder: Path) -> None:
    cache = TensorCache(folder, 2 * SIZE)
    first, second = unused(kept(cache, 1), 2000), unused(kept(cache, 2), 3000)
    third = kept(cache, 3)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]


def test_a_model_beyond_the_budget_keeps_its_first_part(folder: Path) -> None:
    cache = TensorCache(folder, 2 * SIZE)
    held = [kept(cache, 1), kept(cache, 2)]
    path = written(folder, 3)
    cache.put_aside()
    assert not path.exists()
    assert [one.path for one in contents(folder.parent)] == sorted(held, key=lambda path: path.stat().st_atime)


def test_part_of_the_disk_stays_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: RoomyDisk(free=9 * SIZE))
    cache = TensorCache(folder, ROOMY)
    path = written(folder, 1)
    cache.put_aside()
    assert not path.exists()
    assert not contents(folder.parent)


def test_what_nobody_used_for_a_month_is_dropped(folder: Path) -> None:
    first = TensorCache(folder, ROOMY)
    old, new = unused(kept(first, 1), tensor_cache.OLD_S + 60), kept(first, 2)
    first.close()
    TensorCache(folder, ROOMY).close()
    assert (old.exists(), new.exists()) == (False, True)


def test_workers_share_the_budget_but_touch_only_what_nobody_serves(folder: Path) -> None:
    other = TensorCache(folder.with_name("other.rpc"), ROOMY)
    theirs = unused(kept(other, 1), 2000)
    cache = TensorCache(folder, SIZE)
    path = written(folder, 2)
    cache.put_aside()
    assert theirs.exists()
    assert not path.exists()
    other.close()
    kept(cache, 2)
    assert not theirs.exists()


def test_a_folder_serves_one_worker(folder: Path) -> None:
    cache = TensorCache(folder, ROOMY)
    with pytest.raises(BlockingIOError, match="another worker"):
        TensorCache(folder, ROOMY)
    cache.close()
    TensorCache(folder, ROOMY).close()


def test_what_each_worker_keeps_is_told_in_sum(folder: Path) -> None:
    cache = TensorCache(folder, ROOMY)
    kept(cache, 1)
    kept(cache, 2)
    (told,) = by_worker(folder.parent)
    assert (told.path, told.disk_bytes) == (folder, 2 * SIZE)
    assert by_worker(folder / "nowhere") == []
