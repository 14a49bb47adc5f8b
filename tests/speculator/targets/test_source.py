"""A speculator and the source of its target: what each asks of the other, and when a ring goes elsewhere."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.sim.engines import MODEL, PlayedModel
from tests.speculator.fakes import job
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import ModelConfig, Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.loaded import Load, LoadedModel
from twd.speculator.targets.ring import CHANGE_S, RingSource, StageFinder
from twd.speculator.targets.source import TargetHost, TargetSource
from twd.wire.base import Event, InstanceId, NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.ring import StageGone, StageReady
from twd.wire.routes import subject_of
from twd.wire.service import Health


class Recording(TargetSource):
    """Writes down what it is told; its parts come when the test lets them."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.parts = asyncio.Event()
        self.broken = False
        self.tokens = 0

    @property
    def hears(self) -> tuple[type[Event], ...]:
        return (StageGone,)

    async def open(self, host: TargetHost) -> None:
        self.host = host
        self.told.append("open")

    async def acquire(self) -> Load:
        self.host.tell_waiting("waits for its parts")
        await self.parts.wait()
        self.told.append("acquire")
        return self._load

    def _load(self, progress: object) -> LoadedModel:
        if self.broken:
            raise TwdError(FailureCode.MODEL_LOAD, "a part is broken")
        return PlayedModel()

    def failed(self) -> None:
        self.told.append("failed")
        self.broken = False

    def serves(self, loaded: LoadedModel) -> None:
        self.told.append("serves")

    async def watch(self) -> None:
        self.told.append("watch")

    def hear(self, event: Event) -> None:
        self.told.append(type(event).__name__)

    def accepted(self, tokens: int) -> None:
        self.tokens += tokens

    def rests(self) -> None:
        self.told.append("rests")

    def facts(self, facts: SpeculatorFacts) -> SpeculatorFacts:
        return msgspec.structs.replace(facts, place="shelf")


class House:
    """A bus and a speculator with a source that is watched."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.source = Recording()
        self.speculator = SpeculatorService(self.ctx("n", 1), MODEL, self.source)

    def ctx(self, node: str, seed: int) -> ServiceContext:
        return ServiceContext(self.broker.connect(node), NodeId(node), SystemClock(), Ids(random.Random(seed)))

    def submit(self, event: JobSubmitted) -> None:
        self.speculator.on_job_submitted(event, lambda answer: None)


@pytest.fixture
async def house() -> Any:
    house = House()
    await house.speculator.start()
    yield house
    await house.speculator.stop("test ends")


async def test_a_model_is_loaded_once_its_parts_are_there(house: House) -> None:
    speculator, source = house.speculator, house.source
    await until(lambda: "watch" in source.told, "it is watched from the start")
    assert source.told[0] == "open"
    assert (speculator.note, speculator.health) == ("waits for its parts", Health.STARTING)
    assert (speculator.facts().ready, speculator.facts().place) == (False, "shelf")
    source.parts.set()
    await until(lambda: "serves" in source.told, "it serves")
    assert [one for one in source.told if one in ("open", "acquire", "serves")] == ["open", "acquire", "serves"]
    assert (speculator.facts().ready, speculator.facts().loaded, speculator.facts().place) == (True, True, "shelf")


async def test_a_load_that_fails_is_told_and_the_parts_are_acquired_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.kit.load_retry.FIRST_S", 0.0)
    house.source.broken = True
    house.source.parts.set()
    await until(lambda: "serves" in house.source.told, "the next try works")
    tries = [one for one in house.source.told if one in ("acquire", "failed", "serves")]
    assert tries == ["acquire", "failed", "acquire", "serves"]


async def test_a_source_hears_its_events_and_of_accepted_tokens_and_of_rest(house: House) -> None:
    house.source.parts.set()
    await until(lambda: "serves" in house.source.told, "it serves")
    gone = StageGone(stage=InstanceId("stage.a.x"), node=NodeId("a"), model=MODEL, source=InstanceId("stage.a.x"))
    bus = house.broker.connect("a")
    bus.publish(subject_of(gone), msgspec.json.encode(gone))
    await until(lambda: "StageGone" in house.source.told, "it is heard")
    house.source.told.clear()
    house.submit(job("j", max_tokens=3))
    assert house.speculator.jobs == 1
    assert "rests" not in house.source.told
    await until(lambda: "rests" in house.source.told, "the job has ended")
    assert (house.source.tokens, house.speculator.jobs) == (3, 0)


# -- a ring that has a better place ------------------------------------------------------------------


class Elsewhere(StageFinder):
    """Knows of a better place when the test says so."""

    def __init__(self) -> None:
        self.where = ""

    async def stages(self, file_hash: str) -> list[StageReady]:
        return []

    async def better(self, file_hash: str) -> str:
        return self.where


class Standing:
    """A ring source whose ring stands, with a clock and jobs of the test's."""

    def __init__(self) -> None:
        self.finder, self.now, self.closed = Elsewhere(), 100.0, list[str]()
        settings = Settings(models={str(MODEL): ModelConfig(path="m.gguf")})
        self.source = cast(Any, RingSource(settings, MODEL, self.finder))
        self.host = SimpleNamespace(jobs=0, clock=SimpleNamespace(now=lambda: self.now))
        self.source._host = self.host
        self.source._home = SimpleNamespace(close=lambda reason: self.closed.append(str(reason)))

    async def look(self, now: float) -> None:
        self.now = now
        await self.source._look_for_better()


async def test_a_ring_stays_where_it_is_until_there_is_a_better_place() -> None:
    ring = Standing()
    await ring.look(100.0)
    assert ring.closed == []
    ring.finder.where = "attic"
    await ring.look(101.0)
    assert ring.closed == ["the model goes elsewhere: attic"]


async def test_a_ring_with_jobs_waits_for_their_end_and_not_longer_than_it_may() -> None:
    ring = Standing()
    ring.host.jobs, ring.finder.where = 1, "attic"
    await ring.look(100.0)
    await ring.look(100.0 + CHANGE_S)
    assert ring.closed == []
    await ring.look(100.1 + CHANGE_S)
    assert len(ring.closed) == 1


async def test_a_better_place_that_is_gone_again_starts_the_wait_anew() -> None:
    ring = Standing()
    ring.host.jobs = 1
    for at, where in ((100.0, "attic"), (105.0, ""), (106.0, "attic"), (106.0 + CHANGE_S, "attic")):
        ring.finder.where = where
        await ring.look(at)
    assert ring.closed == []
    ring.source.rests()
    assert ring.source._stirred.is_set(), "the moment without jobs is used"
    ring.host.jobs = 0
    await ring.look(107.0 + CHANGE_S)
    assert len(ring.closed) == 1


async def test_a_ring_that_is_lost_looks_for_no_better_place() -> None:
    ring = Standing()
    ring.finder.where, ring.source._lost_at = "attic", 99.0
    await ring.look(100.0)
    assert ring.closed == []
