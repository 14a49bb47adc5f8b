"""Experts that are read while the model computes: the same bits in any memory, and a cause if they cannot be read."""

import mmap
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.engine.experts.unlike import VOCABULARY, write_unlike
from twd.engine.context import BatchTokens, Context, ContextSettings, Logits
from twd.engine.experts.layout import ExpertLayout, expert_layout
from twd.engine.experts.native import Foresight, can_stream
from twd.engine.experts.stream import ExpertStream
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.wire.failures import TwdError

pytestmark = pytest.mark.skipif(not can_stream(), reason="this build of llama.cpp has no cache of experts")
TEXT = [(7 * index * index + 3) % VOCABULARY for index in range(40)]
SETTINGS = ContextSettings(ctx_size=128, type_k="f16")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unlike(tmp_path_factory.mktemp("unlike") / "unlike.gguf")


@pytest.fixture(scope="module")
def layout(path: Path) -> ExpertLayout:
    found = expert_layout(path)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def expected(path: Path) -> list[Logits]:
    with LoadedGguf.load(ModelLoadOptions(path, use_extra_bufts=False)) as model:
        return run(model)


def run(model: LoadedGguf, widths: tuple[int, ...] = (5, 1, 1, 8, 3, 1)) -> list[Logits]:
    """Logits of windows of several widths, one after the other."""
    found: list[Logits] = []
    with Context(model, SETTINGS) as context:
        for width in widths:
            found += step(context, width)
    return found


def step(context: Context, width: int) -> list[Logits]:
    at = context.end(0)
    rows = BatchTokens()
    rows.add(0, at, TEXT[at : at + width])
    context.decode(rows)
    return [context.logits(row).copy() for row in range(width)]


def stream_of(model: LoadedGguf) -> ExpertStream:
    assert model.experts is not None
    return model.experts


def same(one: list[Logits], other: list[Logits]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 1.0])
def test_logits_are_the_same_to_the_bit_in_any_memory(
    path: Path, layout: ExpertLayout, expected: list[Logits], part: float
) -> None:
    least, whole = layout.layer_bytes(mmap.PAGESIZE), layout.padded_bytes(mmap.PAGESIZE)
    budget = max(least, int(part * whole))
    with LoadedGguf.load(ModelLoadOptions(path, expert_bytes=budget)) as model:
        stream_of(model).native.set_foresight(Foresight.OFF)  # it might read what is not wanted
        assert same(run(model), expected)
        told = stream_of(model).numbers()
        assert 0 < told.held_bytes <= budget
        assert (told.dropped == 0) == (part == 1.0)
        assert same(run(model), expected), "what was dropped is read again"
        again = stream_of(model).numbers()
        assert (again.read_bytes == told.read_bytes) == (part == 1.0), "with room for all, each is read once"
        assert told.passes == 6
        assert again.asked == 2 * told.asked


def test_memory_taken_away_meanwhile_changes_no_bit(path: Path, layout: ExpertLayout, expected: list[Logits]) -> None:
    whole, least = layout.padded_bytes(mmap.PAGESIZE), layout.layer_bytes(mmap.PAGESIZE)
    with LoadedGguf.load(ModelLoadOptions(path, expert_bytes=whole)) as model:
        assert same(run(model), expected)
        stream = stream_of(model)
        stream.set_budget(least)
        assert stream.numbers().held_bytes <= least
        assert same(run(model), expected)
        assert stream.adapt(free=1 << 40) == whole, "and taken again when it is there"
        assert stream.adapt(free=0) < whole
        assert same(run(model), expected)
        stream.set_budget(whole)
        for half_life in (1.0, 4096.0):
            stream.native.set_half_life(half_life)
            assert same(run(model), expected)
        assert 0 < stream.native.replay(8.0, least) < stream.native.replay(8.0, whole) <= 1.0
        assert stream.choose() in (1.0, 8.0, 64.0, 512.0, 4096.0)


def test_each_row_that_chooses_an_expert_is_counted(path: Path, layout: ExpertLayout) -> None:
    with LoadedGguf.load(ModelLoadOptions(path, expert_bytes=layout.padded_bytes(mmap.PAGESIZE))) as model:
        run(model, (4, 1))
        uses = stream_of(model).native.uses()
        assert uses.reshape(4, 8).sum(axis=1).tolist() == [2 * 5] * 4


def test_foreseen_experts_are_read_before_they_are_wanted_and_wrong_ones_are_dropped(
    path: Path, layout: ExpertLayout, expected: list[Logits]
) -> None:
    with LoadedGguf.load(ModelLoadOptions(path, expert_bytes=layout.padded_bytes(mmap.PAGESIZE))) as model:
        native = stream_of(model).native
        native.set_foresight(Foresight.ON)
        layers = np.array([0, 1, 2, 3, 99, -1, 0], np.int32)
        numbers = np.array([1, 1, 1, 1, 0, 0, 4096], np.int32)
        assert native.foresee(layers, numbers) == 4, "those that do not exist are not read"
        assert same(run(model), expected)
        assert native.numbers().foreseen_used > 0


@pytest.fixture
def shortened(path: Path, layout: ExpertLayout, tmp_path: Path) -> tuple[Path, int]:
    """A copy of the model, and the size from which on it lacks the experts of the last layer."""
    copy = tmp_path / "copy.gguf"
    shutil.copy(path, copy)
    return copy, layout.matrices[-1].offset + 1000


def test_a_file_cut_short_fails_the_pass_and_a_whole_one_goes_on(
    path: Path, shortened: tuple[Path, int], expected: list[Logits]
) -> None:
    copy, size = shortened
    found = expert_layout(copy)
    assert found is not None
    with LoadedGguf.load(ModelLoadOptions(copy, expert_bytes=found.layer_bytes(mmap.PAGESIZE))) as model:
        os.truncate(copy, size)
        with pytest.raises(TwdError, match=rf"copy.gguf cannot be read at byte \d+: the file was cut short to {size}"):
            run(model)
        copy.write_bytes(path.read_bytes())
        assert same(run(model), expected), "the next jobs read it again"


def test_a_model_in_several_files(tmp_path: Path) -> None:
    first = write_unlike(tmp_path / "parts.gguf", shards=3)
    found = expert_layout(first)
    assert found is not None
    assert len(found.shards) > 1
    with LoadedGguf.load(ModelLoadOptions(first, use_extra_bufts=False)) as model:
        whole = run(model)
    with LoadedGguf.load(ModelLoadOptions(first, expert_bytes=found.layer_bytes(mmap.PAGESIZE))) as model:
        assert same(run(model), whole)
