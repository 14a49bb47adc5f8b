"""A speculator over a ring: it wires the stages, and its texts outlive a stage."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.model_fixtures import model_cache, q4_path
from tests.waiting import until
from twd.bench.client import BenchClient, BenchRequest, MeasuredAnswer
from twd.bench.prompts import PROMPTS
from twd.bus.memory.bus import MemoryBroker
from twd.engine.slices.engine import StageEngine, StagePlan
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import ModelConfig, Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.native import native_speculator
from twd.speculator.targets.ring import RingSource, StageFinder
from twd.stage.native import NativeSlice, SlicePlan, native_stage
from twd.stage.service import StageAddress, StageService
from twd.wire.base import ModelId, NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling, Speculation
from twd.wire.ring import StageReady
from twd.wire.service import Health

__all__ = ["model_cache", "q4_path"]
MODEL = ModelId("target")
CUT = 16
LAYERS = 30
DEADLINE_S = 90.0


class Standing(StageFinder):
    """Finds the stages that a test has started and not ended, once they make the whole model."""

    def __init__(self, stages: Sequence[StageService]) -> None:
        self._stages = stages

    async def stages(self, file_hash: str) -> list[StageReady]:
        there = [one.facts().slice for one in self._stages if not one.ended.is_set()]
        found = sorted((one for one in there if one is not None), key=lambda one: one.first)
        if [0, *(one.end for one in found)] != [*(one.first for one in found), LAYERS]:
            raise TwdError(FailureCode.NOBODY_HOME, "the stages do not make a whole model")
        return found


class House:
    """Stages, a speculator and a client on one bus in memory."""

    def __init__(self, path: Path, folder: Path, parallel: int = 2) -> None:
        self.broker = MemoryBroker()
        self.path, self.folder, self.parallel = path, folder, parallel
        entry = ModelConfig(path=str(path), ctx_size=512, parallel=parallel, threads=1)
        self.settings = Settings(models={str(MODEL): entry}, home=str(folder))
        self.client = BenchClient(self.ctx("home"))
        self.stages: list[StageService] = []
        self.source = RingSource(self.settings, MODEL, Standing(self.stages))
        self.speculator = SpeculatorService(self.ctx("home"), MODEL, self.source)

    def ctx(self, node: str) -> ServiceContext:
        return ServiceContext(bus=self.broker.connect(node), node=NodeId(node), clock=SystemClock(), ids=Ids())

    async def stage(self, first: int, end: int) -> StageService:
        plan = StagePlan(self.path, first, end, LAYERS, end == LAYERS, ctx_size=512, parallel=self.parallel, threads=1)
        node = f"n{len(self.stages)}"
        stage = native_stage(
            self.ctx(node), self.settings, SlicePlan(MODEL, self.path, plan, self.folder), StageAddress()
        )
        self.stages.append(stage)
        await stage.start()
        await stage.settled.wait()
        assert stage.health is Health.OK, stage.note
        return stage

    async def ask(self, number: int, sampling: Sampling, drafts: bool = True) -> MeasuredAnswer:
        return await self.client.answer(MODEL, PROMPTS[number], BenchRequest(Speculation(enabled=drafts), 24, sampling))

    async def close(self) -> None:
        for service in (self.client, self.speculator, *self.stages):
            await service.stop("over")


CASES = ((0, Sampling()), (1, Sampling(temperature=0.9, top_k=40, seed=5)), (-1, Sampling()))
"""Prompts and how to choose; the last has a grammar."""


async def whole_texts(path: Path) -> list[list[int]]:
    """The same, asked of one process that holds the whole model."""
    house = House(path, path.parent)
    house.speculator = native_speculator(house.ctx("home"), house.settings, str(MODEL))
    await house.client.start()
    await house.speculator.start()
    await house.speculator.settled.wait()
    try:
        return [(await house.ask(number, one, drafts=False)).tokens for number, one in CASES]
    finally:
        await house.close()


async def over_a_ring(house: House, texts: list[list[int]]) -> None:
    await house.client.start()
    await house.speculator.start()
    await house.stage(0, CUT)
    last = await house.stage(CUT, LAYERS)
    await house.speculator.settled.wait()
    assert house.speculator.health is Health.OK, house.speculator.note
    assert house.speculator.loaded is not None
    assert house.speculator.loaded.exactness.exact
    for (number, sampling), text in zip(CASES, texts, strict=True):
        assert (await house.ask(number, sampling)).tokens == text
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(house.ask(number, one)) for number, one in CASES]
        await until(lambda: bool(house.speculator.facts().sessions), "no session began")
        await last.stop("a test ends it")
        await house.stage(CUT, LAYERS)
    assert [answer.result().tokens for answer in answers] == texts
    assert house.speculator.facts().ring == 2
    assert house.speculator.health is Health.OK


async def test_a_ring_says_what_the_whole_model_says_and_outlives_a_stage(q4_path: Path, tmp_path: Path) -> None:
    texts = await whole_texts(q4_path)
    house = House(q4_path, tmp_path)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await over_a_ring(house, texts)
    finally:
        await house.close()


@pytest.mark.thorough
async def test_the_only_slot_serves_after_its_trial(q4_path: Path, tmp_path: Path) -> None:
    house = House(q4_path, tmp_path, parallel=1)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await house.client.start()
            await house.speculator.start()
            await house.stage(0, LAYERS)
            await house.speculator.settled.wait()
            assert len((await house.ask(0, Sampling(), drafts=False)).tokens) > 1
            assert len(list((tmp_path / "cache" / "checks").iterdir())) == 2
    finally:
        await house.close()


async def test_a_cut_that_computes_something_else_does_not_serve(
    q4_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bent(stage: NativeSlice, *given: Any) -> Any:
        return StageEngine.decode(stage, *given) * 1.5

    monkeypatch.setattr(NativeSlice, "decode", bent)
    house = House(q4_path, tmp_path)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await house.speculator.start()
            await house.stage(0, CUT)
            await house.stage(CUT, LAYERS)
            await house.speculator.settled.wait()
            assert house.speculator.health is Health.DEGRADED
            note = house.speculator.note
            assert "the cut into layers 0-16 on n0" in note
            assert "16-30 with the head on n1" in note
            assert "pool.engine: rpc" in note
    finally:
        await house.close()


@pytest.mark.thorough
async def test_another_cut_proves_itself_too_before_sessions_go_on(
    q4_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(q4_path, tmp_path)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await house.speculator.start()
            whole = await house.stage(0, LAYERS)
            await house.speculator.settled.wait()
            assert house.speculator.health is Health.OK, house.speculator.note
            decode = StageEngine.decode
            monkeypatch.setattr(NativeSlice, "decode", lambda stage, *given: decode(stage, *given) * 1.5)
            await whole.stop("a test ends it")
            await house.stage(0, CUT)
            await house.stage(CUT, LAYERS)
            await until(lambda: house.speculator.fault is not None, "the cut was not refused")
            assert "it computes something else" in str(house.speculator.fault)
    finally:
        await house.close()


async def test_rings_that_stand_and_do_not_serve_are_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.speculator.targets.ring.GIVE_UP_S", 0.3)
    house = House(tmp_path / "m.gguf", tmp_path)
    source, speculator = house.source, house.speculator
    await source.open(speculator)
    source._lost_at = speculator.clock.now()

    def refuse(*_: object) -> None:
        raise TwdError(FailureCode.BAD_REQUEST, "the new ring holds less")

    async def find() -> Any:
        return SimpleNamespace(close=lambda reason: None)

    monkeypatch.setattr(source, "_find_ring", find)
    loaded: Any = SimpleNamespace(recheck=refuse)
    with pytest.raises(TwdError, match=r"no ring for 0\.3 s: waits for its ring: the new ring holds less") as caught:
        async with asyncio.timeout(DEADLINE_S):
            await source._rewire(loaded)
    assert caught.value.code is FailureCode.WORKER_LOST
