"""Pools in /v1/twd/status and on the dashboard."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.edge.browser import CHROMIUM, open_tab
from tests.edge.conftest import House
from tests.pools.test_view import measured, placement, speculator, stage
from tests.signed import signed
from tests.waiting import until
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.wire.base import NodeId
from twd.wire.codec import encode
from twd.wire.routes import subject_of
from twd.wire.swarm import LayerRange, PullProgressed

PICTURES = os.environ.get("TWD_TEST_PICTURES")
"""A folder for screenshots, for whoever wants to look at them."""


LAYERS = LayerRange(first=4, end=9)


async def with_a_pool(house: House) -> None:
    """A ring's leases, and what its stages tell."""
    bus = house.broker.connect("pool")
    registry = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    for entry in (placement(), speculator(trip_ms=95.0), stage(0), stage(1)):
        await registry.create(entry.key, entry.value)
    await until(lambda: bool(house.edge.watch.pools.states(0.0)))
    for number in (0, 1):
        told = measured(number, passes=10, rows=50, kept=20 * number, compute_ms=5.0, busy=0.95)
        bus.publish(subject_of(signed(told)), encode(signed(told)))
    await until(lambda: shown(house)[0].waste > 0)
    await bus.close()


def shown(house: House) -> list[Any]:
    return house.edge.watch.pools.states(house.edge.clock.now())


async def test_the_status_tells_of_pools(house: House) -> None:
    response = await house.http.get(house.edge.url + "/v1/twd/status")
    assert (await response.json())["pools"] == []
    await with_a_pool(house)
    (pool,) = (await (await house.http.get(house.edge.url + "/v1/twd/status")).json())["pools"]
    assert (pool["model"], pool["engine"], pool["waste"], pool["predicted_ms"]) == ("m", "ring", 2.5, 20.0)
    assert [(one["node"], one["ms"], one["to"]) for one in pool["stages"]] == [("n0", 5.0, "next"), ("n1", 5.0, "home")]
    assert len(pool["warnings"]) == 3


async def test_the_status_tells_of_models_on_their_way(house: House) -> None:
    told = PullProgressed(
        node=NodeId("shed"),
        root="a" * 64,
        file="m.gguf",
        done_bytes=1,
        total_bytes=4,
        layers=LayerRange(first=4, end=9),
    )
    bus = house.broker.connect("swarm")
    bus.publish(subject_of(signed(told)), encode(signed(told)))
    await until(lambda: bool(house.edge.watch.transfers.states(house.edge.clock.now())))
    (one,) = (await (await house.http.get(house.edge.url + "/v1/twd/status")).json())["transfers"]
    assert (one["node"], one["layers"], one["done_bytes"]) == ("shed", "layers 4 to 8", 1)
    await bus.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
async def test_the_dashboard_draws_them(house: House, tmp_path: Path) -> None:
    async with open_tab(tmp_path / "browser") as tab:
        await tab.resize(1400, 1100)
        await tab.open(house.edge.url + "/dashboard")
        await tab.until("document.querySelectorAll('#services tr').length > 0")
        assert await tab.run("document.getElementById('pools-section').classList.contains('hidden')")
        await with_a_pool(house)
        await tab.until("document.querySelectorAll('#pools tbody tr').length === 2")
        await tab.until("document.getElementById('pools').textContent.includes('waste 2.50')")
        text = await tab.run("document.getElementById('pools').textContent")
        for words in ("ring of 2, home desk", "15–29 + head", "it sets the pace", "slower than planned"):
            assert words in text
        if PICTURES:
            await tab.picture(Path(PICTURES) / "pools.png")
            await tab.resize(390, 1000, dark=True)
            await tab.run("document.getElementById('pools').scrollIntoView()")
            await tab.picture(Path(PICTURES) / "pools-phone.png")
        assert [problem for problem in tab.problems if "404" not in problem and "503" not in problem] == []
