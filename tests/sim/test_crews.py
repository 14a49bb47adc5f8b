"""Drafters that come, go and fall silent, as a real speculator in a played world sees them."""

from collections.abc import Iterator

import pytest

from tests.sim.engines import REAL, played_engines
from tests.sim.plan import Plan
from tests.sim.world import World
from twd.wire.draft import DrafterAttached, DrafterChecked


@pytest.fixture(autouse=True)
def engines() -> Iterator[None]:
    with played_engines():
        yield


def test_each_of_several_drafters_is_told_whether_it_pays() -> None:
    units = {"speculator-0": "n0", "edge-0": "n0", "drafter-0": "n1", "drafter-1": "n2"}
    world = World(Plan(1, units, []), REAL)
    assert world.play() == []
    told = [event for _, _, event in world.witness.heard]
    attached = {event.drafter for event in told if isinstance(event, DrafterAttached)}
    checked = [event.drafter for event in told if isinstance(event, DrafterChecked)]
    assert len(attached) == 2
    assert sorted(checked) == sorted(attached)
