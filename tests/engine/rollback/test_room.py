"""Snapshots and heads that do not fit into memory: fewer of them, or none, said so, and the text stays what it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.slices.recipes import recipe
from tests.engine.test_own_head import load, text, write
from twd.engine.context import ContextSettings
from twd.engine.heads.head import HeadContext
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.rollback import find
from twd.engine.rollback.find import FoundUndo, open_undoable
from twd.wire.job import Sampling

WANTED = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedGguf]:
    path = recipe("qwen35").write(tmp_path_factory.mktemp("room") / "model.gguf")
    with LoadedGguf.load(ModelLoadOptions(path)) as loaded:
        yield loaded


def found(model: LoadedGguf) -> FoundUndo:
    context, undo = open_undoable(model, ContextSettings(ctx_size=256, parallel=2, threads=1), WANTED)
    context.close()
    return undo


def test_fewer_snapshots_mean_fewer_drafts(model: LoadedGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty = found(model)
    assert plenty.drafts_max == WANTED
    monkeypatch.setattr(find, "_budget", lambda _: plenty.state_bytes * 2 * 5)
    few = found(model)
    assert few.drafts_max == 5
    assert few.describe().endswith(f"memory is short for {WANTED}")


def test_without_room_for_any_a_checkpoint_undoes(model: LoadedGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "_budget", lambda _: 0)
    none = found(model)
    assert none.works
    assert none.cost is not None
    assert f"no memory for {WANTED} snapshots of " in none.describe()


def test_a_head_without_room_is_left_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe("qwen35 with a head").write(tmp_path / "model.gguf")
    whole = load(path)
    truth = text(write(whole, Sampling(), 2))
    whole.close()
    monkeypatch.setattr(HeadContext, "_cache_bytes", lambda _: 1 << 60)
    crowded = load(path)
    assert crowded.target.head is None
    assert "without a head: " in crowded.facts.note
    assert text(write(crowded, Sampling(), 2)) == truth
    crowded.close()
