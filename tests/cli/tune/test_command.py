"""Looking at a machine whose engine, or the driver under it, gives no answer."""

import sys
from pathlib import Path

import pytest

from twd.agent.probes import gpu as gpu_probe
from twd.cli.doctor import probes as doctor_probes
from twd.cli.tune import command as tune

FOR_EVER = "import time; time.sleep(600)"


def test_an_engine_that_hangs_is_told_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_probe, "ENGINE", (sys.executable, "-S", "-c", FOR_EVER))
    monkeypatch.setattr(gpu_probe, "ENGINE_S", 0.01)
    machine = tune.look(None, measure=False)
    assert machine.cores > 0
    assert machine.device_bytes == 0
    assert "did not answer within 0.01 s" in capsys.readouterr().err


def test_a_model_that_takes_too_long_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tune, "MEASURE_S", 0.0)
    assert tune._times(tmp_path / "m.gguf", 2, 4) == {}
    assert "could not be timed" in capsys.readouterr().err


def test_doctor_says_that_the_engine_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_probes, "ASK_LLAMA", FOR_EVER)
    monkeypatch.setattr(doctor_probes, "PROGRAM_S", 0.01)
    assert doctor_probes.llama_build().problem == "no answer within 0.01 s; a device's driver may hang"
