"""A model that comes back is not measured again, unless something about it is another."""

from dataclasses import replace
from pathlib import Path

import pytest

from twd.engine import loading
from twd.engine.context import ContextSettings
from twd.engine.loading import LoadPlan, load_native
from twd.engine.remembered import LEAST_MS, Measurement, circumstances, farther, recall, remember
from twd.wire.base import ModelId
from twd.wire.model import CostPoint, Exactness

FOUND = Measurement(exactness=Exactness(exact=True, settings="s", compared=3), cost=[CostPoint(width=1, ms=2.5)])


def test_what_was_measured_is_known_under_the_same_circumstances_only(tmp_path: Path) -> None:
    model = tmp_path / "a.gguf"
    model.write_bytes(b"weights")
    about = circumstances(model, ContextSettings(), 1, 0)
    assert recall(tmp_path / "cache", about) is None
    remember(tmp_path / "cache", about, FOUND)
    assert recall(tmp_path / "cache", circumstances(model, ContextSettings(), 1, 0)) == FOUND
    assert recall(tmp_path / "cache", circumstances(model, ContextSettings(threads=7), 1, 0)) is None
    assert recall(tmp_path / "cache", replace(about, build="another")) is None
    model.write_bytes(b"other weights")
    assert recall(tmp_path / "cache", circumstances(model, ContextSettings(), 1, 0)) is None


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff\xfe", b'{"exactness": 1, "cost": []}'])
def test_junk_is_measured_again(tmp_path: Path, junk: bytes) -> None:
    about = circumstances(Path(__file__), ContextSettings(), 1, 0)
    (tmp_path / about.name).write_bytes(junk)
    assert recall(tmp_path, about) is None


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    about = circumstances(Path(__file__), ContextSettings(), 1, 0)
    remember(tmp_path / "file", about, FOUND)
    assert recall(tmp_path / "file", about) is None


@pytest.mark.model
def test_the_second_load_measures_nothing(q4_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = LoadPlan(model=ModelId("tiny"), path=q4_path, ctx_size=128, parallel=1, threads=1, memory=tmp_path)
    first = load_native(plan, lambda *_: None)
    first.close()
    monkeypatch.setattr(loading, "_measure_now", lambda *_: pytest.fail("it was measured again"))
    second = load_native(plan, lambda *_: None)
    second.close()
    assert second.exactness == first.exactness
    assert [point.width for point in second.cost.points()] == [point.width for point in first.cost.points()]


def test_a_longer_way_adds_what_it_takes_and_a_shorter_one_leaves_something() -> None:
    times = Measurement(exactness=FOUND.exactness, cost=[CostPoint(width=1, ms=2.5), CostPoint(width=8, ms=9.0)])
    assert [point.ms for point in farther(times, 20.0).cost] == [22.5, 29.0]
    assert farther(farther(times, -2.0), 2.0) == times
    assert [point.ms for point in farther(times, -5.0).cost] == [LEAST_MS, 4.0]
