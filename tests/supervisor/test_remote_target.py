"""A server that scores guesses as the target, by the settings: where drafts are a must, a job fails without them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import pytest
from aiohttp import web

from tests.backends.fakes.gpu_servers import FakeVllm
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import TOY
from tests.backends.listener import MODEL, Listener, ctx, job
from tests.waiting import until
from twd.backends.drafter.service import RemoteDrafter
from twd.backends.factory import text_drafter_of
from twd.bus.memory.bus import MemoryBroker
from twd.settings.model import BackendConfig, DrafterConfig, EdgeConfig, NgramConfig, Settings, SpeculationConfig
from twd.speculator.service import SpeculatorService
from twd.supervisor.remote_target import remote_speculator
from twd.wire.draft import DrafterDetached
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import JobFailed, JobFinished, JobSubmitted, TokensAccepted
from twd.wire.job import Speculation as AskedSpeculation
from twd.wire.model import ModelReady

PLAIN: Final = AskedSpeculation(enabled=False)
PATIENT: Final = AskedSpeculation(window=8)


class Doored(FakeVllm):
    """Completes texts while its door is open; who comes before waits."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        await self.open.wait()
        return await super().complete(request)


@dataclass
class Shop:
    """A speculator and a drafter, each over a server of other people, as one set of settings says."""

    broker: MemoryBroker
    settings: Settings
    target: Doored
    ear: Listener
    speculator: SpeculatorService
    drafter: RemoteDrafter

    async def with_drafter(self) -> None:
        """From now on it drafts."""
        await self.drafter.start()
        await until(lambda: self.drafter.instance in str(self.speculator.facts().drafters))

    async def write(self, asked: JobSubmitted) -> tuple[str, JobFinished | Failure]:
        """A job to its end, with the text of its tokens."""
        answer = await self.ear.submit(asked)
        if isinstance(answer, JobFailed):
            return "", answer.failure
        await until(lambda: bool(self.ear.ends(asked.job)))
        return "".join(event.text for event in self.ear.of(TokensAccepted, asked.job)), self.ear.end(asked.job)


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    farm = Farm()
    yield farm
    await farm.close()


@pytest.fixture
async def shop(farm: Farm, fallback: bool) -> AsyncIterator[Shop]:
    broker, target, guesser = MemoryBroker(), Doored(), OpenAiServer()
    await farm.add(target)
    await farm.add(guesser)
    settings = Settings(
        backends={"big": BackendConfig(url=target.url)},
        drafters=(DrafterConfig(name="small", url=guesser.url),),
        speculation=SpeculationConfig(fallback_on_draft_failure=fallback, ngram=NgramConfig(enabled=False)),
    )
    ear = Listener(broker)
    await ear.listen()
    speculator = remote_speculator(ctx(broker, 2, "s"), settings, MODEL)
    await speculator.start()
    await until(lambda: bool(ear.of(ModelReady)))
    drafter = text_drafter_of(ctx(broker, 3, "d"), settings, settings.drafters[0])
    yield Shop(broker, settings, target, ear, speculator, drafter)
    target.open.set()
    for service in (drafter, speculator):
        await service.stop()
        assert service.fault is None


def text_of(asked: JobSubmitted) -> str:
    """What the target's server alone would write."""
    return TOY.shown(TOY.generate(TOY.tokenize(asked.prompt.text or ""), asked.max_tokens or 0))


@pytest.mark.parametrize("fallback", [False])
async def test_where_drafts_are_a_must_a_job_without_a_drafter_fails_and_says_why(shop: Shop) -> None:
    text, end = await shop.write(job(name="early"))
    assert isinstance(end, Failure)
    assert (text, end.code) == ("", FailureCode.BACKEND_DOWN)
    assert "speculation.fallback_on_draft_failure is off" in end.message
    plain = job(name="plain", speculation=PLAIN)
    assert (await shop.write(plain))[0] == text_of(plain), "it asked for no guesses"


@pytest.mark.parametrize("fallback", [False])
async def test_with_a_drafter_it_writes_the_servers_own_text(shop: Shop) -> None:
    await shop.with_drafter()
    asked = job(max_tokens=60, speculation=PATIENT)
    text, end = await shop.write(asked)
    assert isinstance(end, JobFinished)
    assert text == text_of(asked)


@pytest.mark.parametrize("fallback", [False])
async def test_a_job_whose_last_drafter_leaves_fails_after_the_pass_that_is_under_way(shop: Shop) -> None:
    await shop.with_drafter()
    await until(lambda: shop.speculator._idle.is_set())
    shop.target.open.clear()
    before = len(shop.target.bodies("/completions"))
    asked = job(max_tokens=200, speculation=PATIENT)
    await shop.ear.submit(asked)
    await until(lambda: len(shop.target.bodies("/completions")) > before)
    await shop.drafter.stop()
    await until(lambda: bool(shop.ear.of(DrafterDetached)))
    shop.target.open.set()
    await until(lambda: bool(shop.ear.ends(asked.job)))
    end = shop.ear.end(asked.job)
    assert isinstance(end, Failure)
    assert "no drafter is there" in end.message


@pytest.mark.parametrize("fallback", [True])
async def test_elsewhere_it_goes_on_without(shop: Shop) -> None:
    asked = job(max_tokens=30)
    text, end = await shop.write(asked)
    assert isinstance(end, JobFinished)
    assert text == text_of(asked)


async def test_the_settings_bound_windows_and_the_queue(farm: Farm) -> None:
    broker, target = MemoryBroker(), FakeVllm()
    await farm.add(target)
    settings = Settings(
        backends={"big": BackendConfig(url=target.url)},
        speculation=SpeculationConfig(max_draft_tokens=2),
        edge=EdgeConfig(max_queue=3),
    )
    speculator = remote_speculator(ctx(broker, 2, "s"), settings, MODEL)
    await speculator.start()
    await speculator.settled.wait()
    assert speculator.loaded is not None
    limits = speculator.loaded.limits
    await speculator.stop()
    assert (limits.max_window, limits.max_queue) == (2, 3)
