"""Disks are measured where mixtures lie, and seldom."""

import time
from pathlib import Path

import pytest

from tests.engine.experts.unlike import write_unlike
from twd.agent.probes import disk_speed
from twd.agent.probes.disk import disk_facts
from twd.agent.probes.disk_speed import FRESH_S, DiskSpeeds
from twd.gguf_tools.model_file import read_model


def test_a_disk_with_a_mixture_is_measured_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, device = read_model(write_unlike(tmp_path / "m.gguf")), tmp_path.stat().st_dev
    told = iter([1e9, 2e9])
    monkeypatch.setattr(disk_speed, "disk_speed", lambda path: next(told))
    cache = tmp_path / "cache"
    assert DiskSpeeds(cache).of([model]) == {device: 1_000_000_000}
    assert DiskSpeeds(cache).of([model]) == {device: 1_000_000_000}
    later = time.time() + FRESH_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert DiskSpeeds(cache).of([model]) == {device: 2_000_000_000}
    (disk,) = disk_facts([tmp_path], {device: 7})
    assert disk.read_bytes_s == 7


def test_nothing_is_measured_without_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_speed, "disk_speed", lambda path: pytest.fail("it was measured"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    gone = read_model(write_unlike(tmp_path / "gone.gguf"))
    (tmp_path / "gone.gguf").unlink()
    assert DiskSpeeds(tmp_path).of([read_model(broken), gone]) == {}


def test_a_real_disk_gives_something(tmp_path: Path) -> None:
    (speed,) = DiskSpeeds(tmp_path).of([read_model(write_unlike(tmp_path / "m.gguf"))]).values()
    assert speed > 0
