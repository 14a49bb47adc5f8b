"""Services over other people's servers, made from the settings."""

import asyncio

import msgspec
import pytest

from tests.backends.fakes.gpu_servers import FakeSglang, FakeVllm
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from tests.backends.listener import Listener, ctx
from tests.waiting import until
from twd.backends.factory import checks_guesses, relay_of, text_drafter_of, verifying_loader
from twd.bus.memory.bus import MemoryBroker
from twd.settings.model import ServerConfig, Settings
from twd.wire.failures import FailureCode, TwdError


def settings_for(url: str, **more: object) -> Settings:
    """One backend and one drafter behind a URL."""
    raw = {
        "backends": {"big": {"url": url, "timeout_s": 2}},
        "drafters": [{"url": url, "for_model": "big", "fallback": True, "timeout_s": 2}],
        "speculation": {"breaker_failures": 2, "cooldown_s": 7},
    }
    return msgspec.convert(raw | more, Settings)


async def test_a_relay_and_a_drafter(farm: Farm) -> None:
    server = OpenAiServer()
    await farm.add(server)
    settings, broker = settings_for(server.url), MemoryBroker()
    await Listener(broker).listen()
    relay = relay_of(ctx(broker, 1), settings, "big")
    drafter = text_drafter_of(ctx(broker, 2), settings, settings.drafters[0])
    assert (relay.model, drafter.for_model, drafter.fallback) == ("big", "big", True)
    assert drafter.model == server.url.removeprefix("http://")
    await relay.start()
    await drafter.start()
    await until(lambda: bool(relay.facts().ready and drafter.facts().ready))
    await relay.stop()
    await drafter.stop()


async def test_private_addresses_may_be_closed_off(farm: Farm) -> None:
    server = OpenAiServer()
    await farm.add(server)
    settings = settings_for(server.url, edge={"allow_private_upstream": False})
    broker = MemoryBroker()
    relay = relay_of(ctx(broker, 1), settings, "big")
    await relay.start()
    await until(lambda: "allow_private_upstream" in relay.note)
    assert not server.seen
    await relay.stop()
    with pytest.raises(TwdError) as caught:
        await asyncio.to_thread(verifying_loader(settings, "big"), lambda share, stage: None)
    assert caught.value.code is FailureCode.FORBIDDEN


async def test_who_can_check_guesses(farm: Farm) -> None:
    for server, can in ((FakeVllm(), True), (FakeSglang(), False), (OpenAiServer(), False)):
        await farm.add(server)
        assert await asyncio.to_thread(checks_guesses, ServerConfig(url=server.url)) is can
    with pytest.raises(TwdError):
        await asyncio.to_thread(checks_guesses, ServerConfig(url="http://127.0.0.1:9"))
