"""Connections to a real broker."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.bus.conftest import NatsServer
from tests.bus.nats.story import Open
from twd.bus.address import BusAddress
from twd.bus.nats.bus import NatsBus


@pytest.fixture
async def open_bus(nats_server: NatsServer) -> AsyncIterator[Open]:
    opened: list[NatsBus] = []

    async def open_one(address: BusAddress | None = None, **options: Any) -> NatsBus:
        bus = await NatsBus.connect(address or nats_server.address, **options)
        opened.append(bus)
        return bus

    yield open_one
    for bus in opened:
        await bus.close()
