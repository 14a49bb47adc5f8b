"""Slices are made once, found again, and the longest unused go first."""

import os
from pathlib import Path

import pytest

from tests.engine.sliceable_models import write_sliceable
from tests.engine.tiny_transformer import LAYERS
from twd.gguf_tools import slice_cache
from twd.gguf_tools.slice import PARTIAL, DiskFull, write_slice
from twd.gguf_tools.slice_cache import cached_slice, collect, contents, drop_partials


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sliceable("llama", tmp_path_factory.mktemp("model"))


def aged(path: Path, seconds_after_1970: float) -> Path:
    os.utime(path, (seconds_after_1970, seconds_after_1970))
    return path


def test_a_slice_is_written_once(model: Path, tmp_path: Path) -> None:
    path = aged(cached_slice(model, 0, 4, False, tmp_path), 1000)
    before = path.stat().st_ino
    assert cached_slice(model, 0, 4, False, tmp_path) == path
    assert path.stat().st_ino == before
    assert path.stat().st_mtime > 1000
    assert cached_slice(model, 4, LAYERS, False, tmp_path) != cached_slice(model, 4, LAYERS, True, tmp_path)
    assert len(contents(tmp_path)) == 3


def test_the_whole_model_is_its_own_slice(model: Path, tmp_path: Path) -> None:
    assert cached_slice(model, 0, LAYERS, True, tmp_path) == model
    assert not contents(tmp_path)


def test_another_model_of_the_same_name_gets_its_own(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / model.name
    other.parent.mkdir()
    raw = bytearray(model.read_bytes())
    raw[-1] ^= 1
    other.write_bytes(raw)
    assert cached_slice(model, 0, 4, False, tmp_path) != cached_slice(other, 0, 4, False, tmp_path)


def test_a_broken_slice_is_made_anew(model: Path, tmp_path: Path) -> None:
    path = cached_slice(model, 0, 4, False, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert cached_slice(model, 0, 4, False, tmp_path).read_bytes() == whole


def test_the_longest_unused_go_first(model: Path, tmp_path: Path) -> None:
    paths = [aged(cached_slice(model, first, first + 2, False, tmp_path), 1000 + first) for first in (1, 3, 5)]
    held = contents(tmp_path)
    assert [one.path for one in held] == paths
    room = sum(one.disk_bytes for one in held[1:])
    assert [one.path for one in collect(tmp_path, room)] == paths[:1]
    assert [one.path for one in collect(tmp_path, 0, keep=paths[1])] == paths[2:]
    assert [one.path for one in contents(tmp_path)] == paths[1:2]


def test_a_budget_never_costs_the_slice_that_is_wanted(model: Path, tmp_path: Path) -> None:
    cached_slice(model, 0, 4, False, tmp_path)
    path = cached_slice(model, 4, 6, False, tmp_path, budget_bytes=1)
    assert [one.path for one in contents(tmp_path)] == [path]


def test_a_full_disk_is_cleared_of_old_slices_and_tried_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = cached_slice(model, 0, 4, False, tmp_path)

    def only_when_empty(source: Path, first: int, end: int, target: Path, **options: object) -> None:
        if old.exists():
            raise DiskFull(target, "the disk is full")
        write_slice(source, first, end, target, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(slice_cache, "write_slice", only_when_empty)
    path = cached_slice(model, 4, 6, False, tmp_path)
    assert [one.path for one in contents(tmp_path)] == [path]


def test_a_full_disk_with_nothing_to_clear_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, first: int, end: int, target: Path, **_: object) -> None:
        raise DiskFull(target, "the disk is full")

    monkeypatch.setattr(slice_cache, "write_slice", full)
    with pytest.raises(DiskFull):
        cached_slice(model, 4, 6, False, tmp_path)


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    old = aged_file(tmp_path / f".a.gguf.x{PARTIAL}")
    young = tmp_path / f".b.gguf.y{PARTIAL}"
    young.write_text("")
    drop_partials(tmp_path)
    assert not old.exists()
    assert young.exists()


def aged_file(path: Path) -> Path:
    path.write_text("")
    return aged(path, 1000)
