"""A model that comes back is not measured again, unless something about it is another."""

from dataclasses import replace
from pathlib import Path

import pytest

from twd.engine.context import ContextSettings
from twd.engine.library import EngineDevice
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import load_native
from twd.engine.measuring import at_load, remembered
from twd.engine.measuring.remembered import LEAST_MS, Measurement, circumstances, farther
from twd.wire.base import ModelId
from twd.wire.model import CostPoint, Exactness

FOUND = Measurement(exactness=Exactness(exact=True, settings="s", compared=3), cost=[CostPoint(width=1, ms=2.5)])


def test_other_circumstances_are_told_apart(tmp_path: Path) -> None:
    model = tmp_path / "a.gguf"
    model.write_bytes(b"weights")
    about = circumstances(model, ContextSettings(), 1, 0)
    assert circumstances(model, ContextSettings(), 1, 0).name == about.name
    assert circumstances(model, ContextSettings(threads=7), 1, 0).name != about.name
    assert replace(about, build="another").name != about.name
    model.write_bytes(b"other weights")
    assert circumstances(model, ContextSettings(), 1, 0).name != about.name


@pytest.mark.model
@pytest.mark.parametrize(
    "test", [pytest.param(True, id="target"), pytest.param(False, marks=pytest.mark.thorough, id="drafter")]
)
def test_the_second_load_measures_nothing(
    test: bool, q4_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = LoadPlan(model=ModelId("tiny"), path=q4_path, ctx_size=128, parallel=1, threads=1, memory=tmp_path)
    plan = replace(tiny, test=test, timed=True)
    load_native(replace(plan, test=not test), lambda *_: None).close()
    assert len(list(tmp_path.glob("timed-*"))) == 1, "what was only timed says nothing of the other"
    first = load_native(plan, lambda *_: None)
    first.close()
    monkeypatch.setattr(at_load, "measure_now", lambda *_: pytest.fail("it was measured again"))
    second = load_native(plan, lambda *_: None)
    second.close()
    assert second.exactness == first.exactness
    assert second.exactness.exact is test
    assert [point.width for point in second.cost.points()] == [point.width for point in first.cost.points()]


def test_a_longer_way_adds_what_it_takes_and_a_shorter_one_leaves_something() -> None:
    times = Measurement(exactness=FOUND.exactness, cost=[CostPoint(width=1, ms=2.5), CostPoint(width=8, ms=9.0)])
    assert [point.ms for point in farther(times, 20.0).cost] == [22.5, 29.0]
    assert farther(farther(times, -2.0), 2.0) == times
    assert [point.ms for point in farther(times, -5.0).cost] == [LEAST_MS, 4.0]


def test_another_device_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "a.gguf"
    model.write_bytes(b"weights")

    def names(*cards: str) -> str:
        found = [EngineDevice(f"CUDA{at}", card, "gpu", 1, 1, 0) for at, card in enumerate(cards)]
        monkeypatch.setattr(remembered, "devices", lambda: [*found, EngineDevice("CPU", "Xeon", "cpu", 1, 1, 0)])
        return circumstances(model, ContextSettings(), 1, 99).name

    assert names("a") == names("a")
    assert len({names("a"), names("b"), names("a", "b"), names()}) == 4
