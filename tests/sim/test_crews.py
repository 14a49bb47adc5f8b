"""Drafters that come, go and fall silent, as a real speculator in a played world sees them."""

from collections.abc import Iterator

import pytest

from tests.sim.engines import REAL, played_engines
from tests.sim.plan import CutOff, Fault, Kill, Partition, Plan, PlannedJob
from tests.sim.world import World
from twd.drafter.service import DrafterService
from twd.kit.service import LEASE_TTL_S
from twd.speculator.service import SpeculatorService
from twd.wire.base import InstanceId
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


KILLED_AT = 5.0
NOTICED_BY = KILLED_AT + LEASE_TTL_S + 6.0
LATER = NOTICED_BY + 15.0
UNITS = {"speculator-0": "n0", "edge-0": "n0", "drafter-0": "n1"}


def crews_over_time(fault: Fault) -> tuple[World, list[set[InstanceId]]]:
    """Whom the speculator counts on before a fault, when it must have been noticed, and later."""
    last = PlannedJob(LATER + 1.0, "edge-0", "p", seed=1, max_tokens=8, deadline_s=30.0)
    world, seen = World(Plan(1, UNITS, [last], [fault]), REAL), list[set[InstanceId]]()

    def look() -> None:
        speculator = world.units["speculator-0"].service
        assert isinstance(speculator, SpeculatorService)
        assert speculator._core is not None
        seen.append(set(speculator._core.drafter_pool.drafters))

    for at in (fault.at - 0.1, NOTICED_BY, LATER):
        world.loop.call_at(at, look)
    assert world.play() == []
    return world, seen


def test_a_killed_drafter_is_counted_on_no_more_and_its_successor_is() -> None:
    world, (before, after, _) = crews_over_time(Kill(KILLED_AT, "drafter-0"))
    told = [event.drafter for _, _, event in world.witness.heard if isinstance(event, DrafterAttached)]
    assert len(before) == len(after) == 1
    assert before != after
    assert after == {told[-1]}


def test_a_drafter_that_was_only_cut_off_comes_back() -> None:
    _, (before, during, after) = crews_over_time(CutOff(KILLED_AT, "n1", NOTICED_BY + 1.0 - KILLED_AT))
    assert not during
    assert after == before != set()


def test_a_drafter_that_missed_the_ends_of_texts_drafts_for_later_ones() -> None:
    early = [PlannedJob(5.0 + n / 10, "edge-0", f"p{n}", n, max_tokens=20, deadline_s=30.0) for n in range(3)]
    late = PlannedJob(30.0, "edge-0", "p", seed=1, max_tokens=30, deadline_s=30.0)
    world = World(Plan(1, UNITS, [*early, late], [Partition(6.0, ("n0", "n1"), 15.0)]), REAL)
    held: list[set[str]] = []

    def look() -> None:
        drafter = world.units["drafter-0"].service
        assert isinstance(drafter, DrafterService)
        assert drafter._core is not None
        held.append({str(job) for job in drafter._core.by_job})

    for at in (5.9, 20.9, 31.0):
        world.loop.call_at(at, look)
    assert world.play() == []
    assert held == [{"job0", "job1", "job2"}, {"job0", "job1", "job2"}, {"job3"}]
