"""A speculator whose experts are read from disk while it computes."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.backends.listener import ctx
from tests.model_fixtures import model_cache, q4_path
from twd.bench.client import BenchClient, BenchRequest
from twd.bench.prompts import PROMPTS
from twd.bus.memory.bus import MemoryBroker
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import can_stream
from twd.moe.upcycle import upcycle
from twd.settings.model import ModelConfig, Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.native import native_speculator
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Speculation
from twd.wire.service import Health

__all__ = ["model_cache", "q4_path"]
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not can_stream(), reason="this build of llama.cpp has no cache of experts"),
]


class Asked:
    """A speculator and a client on one bus in memory."""

    def __init__(self, speculator: SpeculatorService, client: BenchClient) -> None:
        self.speculator = speculator
        self.client = client

    async def tokens(self, drafts: bool = True) -> list[int]:
        """The answer to the first question."""
        how = BenchRequest(Speculation(enabled=drafts), 24)
        return (await self.client.answer(ModelId("m"), PROMPTS[0], how)).tokens


@asynccontextmanager
async def serving(model: ModelConfig, home: Path) -> AsyncIterator[Asked]:
    broker = MemoryBroker()
    client = BenchClient(ctx(broker))
    speculator = native_speculator(ctx(broker), Settings(models={"m": model}, home=str(home)), "m")
    await client.start()
    await speculator.start()
    await speculator.settled.wait()
    try:
        yield Asked(speculator, client)
    finally:
        await client.stop("over")
        await speculator.stop("over")


@pytest.fixture(scope="module")
def mixture(q4_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return upcycle(q4_path, tmp_path_factory.mktemp("mixture") / "mixture.gguf", experts=4)


def config(path: Path, **more: object) -> ModelConfig:
    return ModelConfig(path=str(path), ctx_size=256, parallel=1, **more)  # type: ignore[arg-type]


@pytest.mark.slow
async def test_its_text_is_that_of_the_whole_model_and_a_file_cut_short_fails_jobs_with_the_cause(
    mixture: Path, tmp_path: Path
) -> None:
    layout = expert_layout(mixture)
    assert layout is not None
    async with serving(config(mixture, moe_stream="off"), tmp_path) as whole:
        text = await whole.tokens(drafts=False)
        assert whole.speculator.facts().experts is None
    memory = layout.expert_bytes * 0.4 / 2**30
    async with serving(config(mixture, moe_stream="on", moe_memory_gb=memory), tmp_path) as streamed:
        assert streamed.speculator.health is Health.OK, streamed.speculator.note
        assert await streamed.tokens(drafts=False) == text
        assert await streamed.tokens() == text
        experts = streamed.speculator.facts().experts
        assert experts is not None
        assert 0 < experts.hits < experts.asked
        assert experts.read_bytes > memory * 2**30
        kept = mixture.with_name("kept.gguf")
        shutil.copy(mixture, kept)
        os.truncate(mixture, layout.matrices[0].offset)
        with pytest.raises(TwdError, match=r"mixture\.gguf cannot be read at byte \d+: the file was cut short") as told:
            await streamed.tokens()
        assert told.value.code is FailureCode.MODEL_LOAD
        shutil.copy(kept, mixture)
        assert await streamed.tokens() == text, "it serves on when the file is whole again"


async def test_too_little_memory_is_refused_with_numbers(mixture: Path, tmp_path: Path) -> None:
    async with serving(config(mixture, moe_stream="on", moe_memory_gb=0.001), tmp_path) as streamed:
        assert streamed.speculator.health is Health.DEGRADED
        assert "moe_memory_gb grants 1 MiB for experts, which is below one layer's; raise it" in (
            streamed.speculator.note
        )
