"""A model's file comes into memory with care: mapped or read, forgotten on the way, given back when asked."""

from pathlib import Path

import pytest

from tests.gguf_tools.test_inspect import write
from twd.engine.host_memory.page_cache import CAN_DROP
from twd.settings.model import ModelConfig, Settings
from twd.speculator.targets import memory_care as ram_care
from twd.speculator.targets.memory_care import MemoryCare


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "m.gguf")


def care(path: Path, free: int, monkeypatch: pytest.MonkeyPatch, reclaim: str = "auto") -> MemoryCare:
    monkeypatch.setattr(ram_care, "available_bytes", lambda: free)
    return MemoryCare(ModelConfig(path=str(path)), Settings(ram_reclaim=reclaim))  # type: ignore[arg-type]


def test_a_small_file_is_mapped_and_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gentle = care(path, 1 << 40, monkeypatch)
    assert gentle.plan.mapped
    told: list[tuple[float, str]] = []
    gentle.prepare(lambda *news: told.append(news))
    assert told == []
    gentle.watch(lambda *news: told.append(news))(0.5, "reading weights")
    assert told == [(0.5, "reading weights")]


def test_one_that_nearly_fills_the_memory_is_read_ahead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tight = care(path, path.stat().st_size, monkeypatch, reclaim="off")
    told: list[str] = []
    tight.prepare(lambda share, stage: told.append(stage))
    assert told[-1] == "reading ahead 100%"


@pytest.mark.skipif(not CAN_DROP, reason="this system cannot give page cache back")
def test_a_big_one_is_forgotten_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[float] = []
    tight = care(path, path.stat().st_size, monkeypatch)
    assert not tight.plan.mapped
    shares: list[float] = []
    monkeypatch.setattr(ram_care, "drop", lambda paths: dropped.append(shares[-1] if shares else 0.0))
    watched = tight.watch(lambda share, stage: shares.append(share))
    for step in range(101):
        watched(step / 100, "reading weights")
    assert len(shares) == 101
    assert 15 <= len(dropped) <= 21
    tight.finish()
    assert dropped[-1] == 1.0


@pytest.mark.skipif(not CAN_DROP, reason="this system cannot give page cache back")
def test_what_giving_back_brought_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = care(path, 1 << 40, monkeypatch).reclaim()
    assert done.before.rss > 0
    assert done.after.cached <= done.before.cached
