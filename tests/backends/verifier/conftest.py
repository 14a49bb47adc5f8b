"""Speculators over fake servers."""

from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from tests.backends.fakes.gpu_servers import FakeVllm
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from tests.backends.listener import MODEL, Listener, ctx
from tests.backends.verifier.towers import OpenTower, Tower
from tests.waiting import until
from twd.backends.verifier.model import open_verifying
from twd.bus.memory.bus import MemoryBroker
from twd.settings.model import ServerConfig as ServerSettings
from twd.settings.model import Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.source import ReadySource
from twd.supervisor.remote_target import RemoteModel
from twd.wire.model import ModelFailed, ModelReady


@pytest.fixture
async def open_tower(farm: Farm) -> AsyncIterator[OpenTower]:
    """Opens towers; closes them at the end of the test."""
    towers: list[Tower] = []

    async def open_one(make: Callable[[], OpenAiServer] = FakeVllm, *, timeout_s: float = 20.0) -> Tower:
        broker, server = MemoryBroker(), make()
        await farm.add(server)
        settings = ServerSettings(url=server.url, timeout_s=timeout_s)
        ear = Listener(broker)
        await ear.listen()
        speculator = SpeculatorService(
            ctx(broker, 2),
            MODEL,
            ReadySource(lambda progress: cast(Any, RemoteModel(open_verifying(settings, MODEL), Settings(), MODEL))),
        )
        await speculator.start()
        await until(lambda: bool(ear.of(ModelReady) or ear.of(ModelFailed)), timeout_s=20)
        await until(lambda: not server.streaming, "the stream that measures the server is over")
        server.cut_off = 0  # that stream may have been cut off
        towers.append(Tower(server, ear, speculator))
        return towers[-1]

    yield open_one
    for tower in towers:
        tower.server.release.set()
        await tower.speculator.stop()
        assert tower.speculator.fault is None
