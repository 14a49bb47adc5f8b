"""What tokens took is kept for forecasts: one finding of each model, the latest, and nothing that was never timed."""

from pathlib import Path

import pytest

from twd.engine.demo_model import packaged_model
from twd.engine.measuring.steps import keep_step, known_steps
from twd.wire.model import CostPoint


def costs(*ms: float) -> list[CostPoint]:
    return [CostPoint(width=width, ms=one) for width, one in zip((1, 8), ms, strict=False)]


@pytest.mark.model
def test_the_latest_finding_of_a_model_is_known(tmp_path: Path) -> None:
    model = packaged_model()
    assert known_steps(tmp_path / "nothing") == []
    keep_step(tmp_path, model, costs(10.0, 15.0))
    keep_step(tmp_path, model, costs(12.0, 18.0))
    keep_step(tmp_path, model, [])
    (step,) = known_steps(tmp_path)
    assert (step.ms, step.window) == (12.0, 1.5)
    assert step.layers == 30
    assert step.head_bytes > 0
    assert sum(one.share for one in step.kinds) == pytest.approx(1.0)


@pytest.mark.model
def test_each_device_has_its_own_finding(tmp_path: Path) -> None:
    model = packaged_model()
    keep_step(tmp_path, model, costs(12.0, 18.0))
    keep_step(tmp_path, model, costs(2.0, 2.2), "CUDA0")
    keep_step(tmp_path, model, costs(1.0, 1.1), "CUDA0")
    assert {step.device: step.ms for step in known_steps(tmp_path)} == {"": 12.0, "CUDA0": 1.0}


def test_a_broken_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "step-x.json").write_text("{")
    assert known_steps(tmp_path) == []
