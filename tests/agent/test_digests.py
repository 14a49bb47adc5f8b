"""Digests of whole models: read once for all who ask, and only while somebody waits."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.tiny_models import write_llama
from tests.waiting import until
from twd.agent.digests import FileDigests
from twd.agent.model_scan import ModelScan, sha256_of
from twd.wire.failures import TwdError


class Reader:
    """Reads as slowly as a test wants."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.stopped: list[str] = []
        self.looks = 0
        self.go_on = threading.Event()

    def __call__(self, path: Path, left: Callable[[], bool]) -> str:
        self.read.append(path.stem)
        while not self.go_on.wait(0.005):
            self.looks += 1
            if left():
                self.stopped.append(path.stem)
                return ""
        return sha256_of(path)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    reader = Reader()
    monkeypatch.setattr("twd.agent.model_scan.sha256_of", reader)
    yield reader
    reader.go_on.set()


@pytest.fixture
def scan(tmp_path: Path) -> ModelScan:
    for name in ("one", "two"):
        write_llama(tmp_path / f"{name}.gguf")
    scan = ModelScan((tmp_path,))
    scan.scan()
    return scan


async def test_many_who_ask_share_one_reading(reader: Reader, scan: ModelScan, tmp_path: Path) -> None:
    digests = FileDigests(scan)
    asked = asyncio.gather(*(digests.of("one") for _ in range(5)))
    await until(lambda: reader.read, "it reads")
    reader.go_on.set()
    assert set(await asked) == {sha256_of(tmp_path / "one.gguf")}
    assert await digests.of("one")
    assert reader.read == ["one"]
    assert not digests._readings


async def test_one_file_is_read_at_a_time_and_none_that_everybody_left(reader: Reader, scan: ModelScan) -> None:
    digests = FileDigests(scan)
    first, second = (asyncio.ensure_future(digests.of("one")) for _ in range(2))  # noqa: TID251
    other = asyncio.ensure_future(digests.of("two"))  # noqa: TID251
    await until(lambda: reader.read, "it reads")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    looks = reader.looks
    await until(lambda: reader.looks > looks + 1, "it looks again whether anybody waits")
    assert (reader.read, reader.stopped) == (["one"], [])
    second.cancel()
    await until(lambda: reader.read == ["one", "two"], "the next one has its turn")
    assert reader.stopped == ["one"]
    again = asyncio.ensure_future(digests.of("one"))  # noqa: TID251
    reader.go_on.set()
    assert len(await other) == len(await again) == 64
    assert not digests._readings


async def test_a_model_that_nobody_knows_is_told_at_once(reader: Reader, scan: ModelScan) -> None:
    with pytest.raises(TwdError, match="no model"):
        await FileDigests(scan).of("three")
    assert reader.read == []
