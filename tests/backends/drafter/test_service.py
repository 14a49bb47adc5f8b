"""Other people's servers as drafters: they make texts faster, never different, and nobody waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

import pytest

from tests.backends.fakes.llama_server import FakeLlamaServer
from tests.backends.fakes.ollama_server import FakeOllama
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm, Server
from tests.backends.fakes.toy import TOY, Toy
from tests.backends.listener import MODEL, Listener, ctx, job
from tests.backends.toy_target import ToyModel, ToyTarget
from tests.waiting import until
from twd.backends.clients.detection import open_backend
from twd.backends.drafter import service as drafter_module
from twd.backends.drafter.service import RemoteDrafter
from twd.bus.memory.bus import MemoryBroker
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.settings.model import ServerConfig as ServerSettings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.source import ReadySource
from twd.wire.base import ModelId
from twd.wire.draft import DrafterAttached, DrafterDetached, DraftProposed
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobFinished, JobSubmitted, Speculation, TokensAccepted
from twd.wire.model import ModelReady
from twd.wire.service import Health

PATIENT = Speculation(window=8)
"""A fixed window waits for drafts, so that a test sees them used."""


@dataclass
class Workshop:
    """A real speculator over the toy, and drafters behind fake servers."""

    broker: MemoryBroker
    ear: Listener
    speculator: SpeculatorService
    model: ToyModel
    drafters: list[RemoteDrafter] = field(default_factory=list)

    async def hire(self, server: Server, *, ready: bool = True, **fields: object) -> RemoteDrafter:
        """Add a drafter; returns when it has attached, if it is to."""
        settings = ServerSettings(url=server.url, timeout_s=2.0)
        drafter = RemoteDrafter(
            ctx(self.broker, 10 + len(self.drafters), f"d{len(self.drafters)}"),
            ModelId("small"),
            lambda: open_backend(settings),
            **({"cooldown_s": 0.05} | fields),  # type: ignore[arg-type]
        )
        self.drafters.append(drafter)
        await drafter.start()
        if ready:
            await self.settle(drafter)
        return drafter

    async def settle(self, drafter: RemoteDrafter) -> None:
        """Until the speculator knows the drafter and has tried it out."""
        await until(lambda: self.knows(drafter))
        await until(lambda: self.speculator._idle.is_set())

    def knows(self, drafter: RemoteDrafter) -> bool:
        """Whether the speculator counts on it."""
        return drafter.instance in str(self.speculator.facts().drafters)

    def attached(self, drafter: RemoteDrafter) -> list[DrafterAttached]:
        """How often it offered itself."""
        return [event for event in self.ear.of(DrafterAttached) if event.drafter == drafter.instance]

    async def write(self, asked: JobSubmitted) -> JobFinished:
        """A job whose text is checked."""
        text, end = await self.run(asked)
        assert text == expected(asked)
        assert isinstance(end, JobFinished), end
        return end

    async def earn(self, drafter: RemoteDrafter, wanted: int = 1, text: str = "once upon a time there") -> None:
        """Write until so many of the drafter's guesses became text: on a busy machine some come too late."""
        for number in range(10):
            asked = job(text, f"earn-{len(self.ear.events)}-{number}", max_tokens=60, speculation=PATIENT)
            wanted -= taken(await self.write(asked), drafter)
            if wanted <= 0:
                return
        raise AssertionError(f"{wanted} guesses are missing")

    async def fail(self, drafter: RemoteDrafter) -> None:
        """Write until a request of the drafter's failed: on a busy machine a text may end before it asks."""
        for number in range(10):
            asked = job("once upon a time", f"fail-{len(self.ear.events)}-{number}", max_tokens=60, speculation=PATIENT)
            await self.write(asked)
            if drafter.facts().breaker != "closed":
                return
        raise AssertionError("its server was never asked")

    async def run(self, asked: JobSubmitted) -> tuple[str, object]:
        """A job, with the text of its tokens."""
        await self.ear.submit(asked)
        await until(lambda: bool(self.ear.ends(asked.job)))
        return "".join(event.text for event in self.ear.of(TokensAccepted, asked.job)), self.ear.end(asked.job)


def expected(asked: JobSubmitted) -> str:
    """The text that the toy alone would write."""
    return TOY.shown(TOY.generate(TOY.tokenize(asked.prompt.text or ""), asked.max_tokens or 0))


def taken(end: JobFinished, drafter: RemoteDrafter) -> int:
    """How many guesses of a drafter became text."""
    return next((share.taken for share in end.stats.drafters if share.drafter == drafter.instance), 0)


@pytest.fixture
async def workshop(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workshop]:
    """A speculator that is ready."""
    monkeypatch.setattr(drafter_module, "WATCH_S", 0.02)
    broker = MemoryBroker()
    ear, model = Listener(broker), ToyModel(ToyTarget())
    await ear.listen()
    speculator = SpeculatorService(ctx(broker, 2, "s"), MODEL, ReadySource(lambda progress: cast(Any, model)))
    await speculator.start()
    await until(lambda: bool(ear.of(ModelReady)))
    workshop = Workshop(broker, ear, speculator, model)
    yield workshop
    for drafter in workshop.drafters:
        await drafter.stop()
        assert drafter.fault is None
    await speculator.stop()
    assert speculator.fault is None


MAKERS: list[tuple[str, Callable[[], Server]]] = [
    ("openai", OpenAiServer),
    ("llamacpp", FakeLlamaServer),
    ("ollama", FakeOllama),
]


@pytest.mark.parametrize("maker", [maker for _, maker in MAKERS], ids=[name for name, _ in MAKERS])
async def test_a_server_that_guesses_right_is_used(farm: Farm, workshop: Workshop, maker: Callable[[], Server]) -> None:
    server = maker()
    await farm.add(server)
    drafter = await workshop.hire(server)
    await workshop.earn(drafter, 10)


async def test_a_server_with_the_same_tokens_goes_by_tokens(farm: Farm, workshop: Workshop) -> None:
    server = FakeLlamaServer()
    await farm.add(server)
    drafter = await workshop.hire(server)
    text = "once upon a time there was a little one who could see all of it"
    await workshop.write(job(text, "job-1", max_tokens=30, speculation=PATIENT))
    await until(lambda: drafter.facts().speaks_tokens is True)
    workshop.ear.events.clear()
    await workshop.earn(drafter, 20, text)
    proposals = [event for event in workshop.ear.of(DraftProposed) if event.tokens]
    assert proposals
    assert not [event for event in workshop.ear.of(DraftProposed) if event.text]
    assert isinstance(server.bodies("/completion")[-1]["prompt"], list)


async def test_a_server_that_comes_back_with_other_tokens_goes_by_text_again(farm: Farm, workshop: Workshop) -> None:
    server = FakeLlamaServer()
    await farm.add(server)
    drafter = await workshop.hire(server, failures=1, cooldown_s=0.1)
    text = "once upon a time there was a little one who could see all of it"
    await workshop.write(job(text, "job-1", max_tokens=30, speculation=PATIENT))
    await until(lambda: drafter.facts().speaks_tokens is True)
    server.faults.mode = "500"
    drafter._ended(TwdError(FailureCode.BACKEND_DOWN, "restarted"))
    await until(lambda: not drafter.facts().ready)
    server.faults.mode = ""
    await until(lambda: bool(drafter.facts().ready))
    assert drafter.facts().speaks_tokens is False, "until that is compared again"


async def test_a_server_of_another_family_changes_nothing_but_speed(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    server.script = TOY.tokenize(" no this is not the text at all and never will be")
    await farm.add(server)
    drafter = await workshop.hire(server)
    end = await workshop.write(job("once upon a time", max_tokens=40, speculation=PATIENT))
    assert taken(end, drafter) <= 3


async def test_many_sessions_at_once(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    await farm.add(server)
    await workshop.hire(server)
    jobs = [job(f"once upon a time {n}", f"job-{n}", max_tokens=40, speculation=PATIENT) for n in range(8)]
    for asked in jobs:
        await workshop.ear.submit(asked)
    await until(lambda: all(workshop.ear.ends(asked.job) for asked in jobs), timeout_s=20)
    for asked in jobs:
        text = "".join(event.text for event in workshop.ear.of(TokensAccepted, asked.job))
        assert text == expected(asked)


# -- trouble -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["500", "hang", "stall", "die", "rubbish", "error", "broken_json", "flood", "html"])
async def test_trouble_costs_drafts_only(farm: Farm, workshop: Workshop, mode: str) -> None:
    server = OpenAiServer()
    await farm.add(server)
    await workshop.hire(server)
    server.faults.mode, server.faults.only = mode, "completions"
    await workshop.write(job("once upon a time", max_tokens=40))


async def test_a_text_that_is_too_long_for_it_is_left_alone_and_others_are_not(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    server.toy = Toy()
    server.toy.context = 100
    await farm.add(server)
    drafter = await workshop.hire(server, failures=1, cooldown_s=60.0)
    asked, texts = len(server.seen), 0
    async with asyncio.timeout(60):  # a text may be whole before its drafter was refused
        while len(server.seen) == asked:
            texts += 1
            await workshop.write(job("once upon a time " * 30, f"job-{texts}", max_tokens=60, speculation=PATIENT))
    assert len(server.seen) == asked + 1, "it will not become shorter"
    assert drafter.facts().breaker == "closed"
    assert drafter.facts().ready
    assert not workshop.ear.of(DrafterDetached)


async def test_failures_put_it_aside_and_it_comes_back(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    await farm.add(server)
    drafter = await workshop.hire(server, failures=2, cooldown_s=0.1)
    server.faults.mode = "500"
    async with asyncio.timeout(60):  # a text may be whole before its drafter was refused
        for number in count():
            if workshop.ear.of(DrafterDetached):
                break
            await workshop.write(job("once upon a time", f"job-{number}", max_tokens=30))
    assert drafter.facts().ready is False
    assert "500" in drafter.note
    await until(lambda: not workshop.knows(drafter))
    times = len(workshop.attached(drafter))
    server.faults.mode = ""
    await until(lambda: len(workshop.attached(drafter)) > times)
    await until(lambda: drafter.health is Health.OK)
    await workshop.settle(drafter)
    await workshop.earn(drafter)


async def test_one_whose_server_fails_every_second_time_is_put_aside(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    await farm.add(server)
    drafter = await workshop.hire(server, failures=3, cooldown_s=3600.0)
    for number in range(5):
        assert drafter.facts().breaker == "closed"
        if number:
            drafter._ended(None)
        drafter._ended(TwdError(FailureCode.BACKEND_BROKEN, "every second time"))
    assert drafter.facts().breaker == "open"
    await until(lambda: bool(workshop.ear.of(DrafterDetached)))


async def test_a_server_that_comes_late(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    await farm.add(server)
    server.faults.mode = "503"
    drafter = await workshop.hire(server, ready=False)
    await until(lambda: drafter.health is Health.DEGRADED)
    assert not workshop.attached(drafter)
    server.faults.mode = ""
    await until(lambda: bool(workshop.attached(drafter)))


async def test_a_server_that_cannot_continue_raw_texts(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    await farm.add(server)
    server.faults.mode, server.faults.only = "404", "/v1/completions"
    drafter = await workshop.hire(server, ready=False)
    await until(lambda: drafter.health is Health.DEGRADED)
    assert "404" in drafter.note
    await workshop.write(job("once upon a time", max_tokens=20))


async def test_who_leaves_hangs_up(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    await farm.add(server)
    drafter = await workshop.hire(server)
    server.hold_after = 0
    name = await _a_job_that_it_drafts_for(workshop, server)
    await drafter.stop()
    await until(lambda: server.streaming == 0)
    await until(lambda: bool(workshop.ear.of(DrafterDetached)))
    await until(lambda: bool(workshop.ear.ends(name)), timeout_s=20)


async def _a_job_that_it_drafts_for(workshop: Workshop, server: OpenAiServer) -> str:
    """A target this quick can be done before a drafter has begun; then the next job is tried."""
    for number in range(50):
        name = f"job-{number}"
        await workshop.ear.submit(job("once upon a time", name, max_tokens=200))
        await until(lambda name=name: server.streaming > 0 or bool(workshop.ear.ends(name)), timeout_s=20)  # type: ignore[misc]
        if server.streaming:
            return name
    raise AssertionError("no draft was asked for in 50 jobs")


async def test_only_its_own_model_is_drafted_for(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    await farm.add(server)
    drafter = await workshop.hire(server, ready=False, for_model="another")
    await until(lambda: bool(workshop.attached(drafter)))
    asked = len(server.seen)
    await workshop.write(job("once upon a time", max_tokens=20))
    assert len(server.seen) == asked
    assert drafter.facts().proposed == 0
    assert not workshop.knows(drafter)


async def test_a_fallback_works_only_while_the_others_fail(farm: Farm, workshop: Workshop) -> None:
    first, second = OpenAiServer(), OpenAiServer()
    await farm.add(first)
    await farm.add(second)
    registry = await workshop.broker.connect("agent").leases(LEASE_BUCKET, LEASE_TTL_S)
    await registry.put("agent.desk", b'{"node": "desk"}')  # not all that stands there is a service's
    drafter = await workshop.hire(first, failures=1, cooldown_s=60.0)
    spare = await workshop.hire(second, ready=False, fallback=True)
    await until(lambda: "stands by" in spare.note)
    assert not workshop.attached(spare)
    await workshop.earn(drafter)
    assert not workshop.attached(spare)
    first.faults.mode = "500"
    await workshop.fail(drafter)
    await workshop.settle(spare)
    await workshop.earn(spare)
    first.faults.mode = ""
    drafter._breaker._open_until = drafter.clock.now()
    await until(lambda: any(event.drafter == spare.instance for event in workshop.ear.of(DrafterDetached)))
    assert drafter.facts().ready is True


async def test_a_drafter_that_is_stopped_while_it_asks(farm: Farm, workshop: Workshop) -> None:
    server = OpenAiServer()
    await farm.add(server)
    server.faults.mode = "hang"
    drafter = await workshop.hire(server, ready=False)
    await until(lambda: server.streaming > 0)
    async with asyncio.timeout(5):
        await drafter.stop()
