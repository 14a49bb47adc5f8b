"""How a speculator ends: nothing is freed while a thread may still work with it."""

import asyncio
import threading
from collections.abc import Callable, Iterable

import pytest

from tests.sim.engines import MODEL, PlayedModel
from tests.speculator.fakes import job
from tests.waiting import until
from twd.bus.base import SubscriptionOptions
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.speculator.admission import tokenize_queue as lanes
from twd.speculator.core.session import PreparedRequest
from twd.speculator.service import SpeculatorService
from twd.speculator.targets import embeddings
from twd.speculator.targets.embeddings import Embedding
from twd.speculator.targets.source import ReadySource
from twd.wire.base import Event, JobId, NodeId, SessionId
from twd.wire.embedding import EmbeddingRequested
from twd.wire.job import ChatMessage, JobSubmitted, Prompt


class Gated(PlayedModel):
    """Reads a long prompt, or makes a vector, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.gate, self.freed = False, threading.Event(), False

    def wait(self) -> None:
        self.reads = True
        assert self.gate.wait(10)
        assert not self.freed, "it was freed under the hands of who reads it"
        self.reads = False

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        self.wait()
        return super().prepare(job, session)

    def embed(self, request: EmbeddingRequested) -> Embedding:
        self.wait()
        return super().embed(request)

    def close(self) -> None:
        self.freed = True


def speculator_of(model: PlayedModel) -> SpeculatorService:
    ctx = ServiceContext(MemoryBroker().connect("n"), NodeId("n"), SystemClock(), Ids())
    return SpeculatorService(ctx, MODEL, ReadySource(lambda progress: model))


def long_prompt(speculator: SpeculatorService) -> None:
    text = Prompt(messages=[ChatMessage(role="user", content="x" * 10_000)])
    speculator.on_job_submitted(job("j", prompt=text), lambda event: None)


def vector(speculator: SpeculatorService) -> None:
    wanted = EmbeddingRequested(job=JobId("e"), model=MODEL, prompt=Prompt(text="x"))
    speculator.on_embedding_requested(wanted, lambda event: None)


@pytest.mark.parametrize("work", [long_prompt, vector])
@pytest.mark.parametrize("in_time", [True, False])
async def test_what_a_thread_reads_is_freed_when_it_has_ended_and_not_before(
    work: Callable[[SpeculatorService], None], in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (lanes, embeddings):
        monkeypatch.setattr(room, "CLOSING_S", 10.0 if in_time else 0.05)
    model = Gated()
    speculator = speculator_of(model)
    await speculator.start()
    await speculator.settled.wait()
    work(speculator)
    await until(lambda: model.reads, "a thread reads the model")
    if in_time:
        asyncio.get_running_loop().call_later(0.1, model.gate.set)
    await speculator.stop()
    assert model.freed == in_time
    model.gate.set()
    await until(lambda: not model.reads, "it ends")


async def test_leases_are_looked_at_once_in_five_seconds_however_ticks_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    speculator = speculator_of(PlayedModel())
    looks = list[float]()

    async def look() -> None:
        looks.append(now)

    monkeypatch.setattr(speculator, "_check_leases", look)
    await speculator.start()
    await speculator.settled.wait()
    speculator._owners.take(job("j"), SessionId("s"))
    for tick in (100.9, 104.9, 106.1, 110.1, 110.9, 111.3, 116.1):
        now = tick
        speculator.tick(now)
        await asyncio.sleep(0)
    assert looks == [100.9, 106.1, 111.3]
    await speculator.stop()


async def test_a_model_that_is_freed_before_all_ears_are_open_hears_nothing_more() -> None:
    model = Gated()
    speculator = speculator_of(model)
    opening, go_on = asyncio.Event(), asyncio.Event()
    listen = speculator.listen

    async def slowly(event_types: Iterable[type[Event]], also: Iterable[SubscriptionOptions] = ()) -> None:
        event_types = list(event_types)
        if JobSubmitted in event_types:
            opening.set()
            await go_on.wait()
        await listen(event_types, also)

    speculator.listen = slowly  # type: ignore[method-assign]
    await speculator.start()
    await opening.wait()
    leave, heard = speculator._leave, list[int]()

    async def leaving(reason: str) -> None:
        heard.append(len(speculator._subscriptions))
        await leave(reason)

    speculator._leave = leaving  # type: ignore[method-assign]
    before = len(speculator._subscriptions)
    stopping = asyncio.ensure_future(speculator.stop())  # noqa: TID251 - a hand of the test
    go_on.set()
    await stopping
    assert heard == [before]
    assert model.freed
