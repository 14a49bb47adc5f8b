"""When a pass counts as hung: never while it is only slow, and soon where such passes were quick."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.bus.memory.bus import MemoryBroker
from twd.decoding.cost import CostCurve
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.process.compute import ProcessEffort, effort
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.decode_watchdog import (
    FACTOR,
    LEAST_S,
    LOOK_MOST_S,
    UNKNOWN_S,
    WORKING_SHARE,
    DecodeWatchdog,
    PassTimes,
    PassUnderWay,
    patience_s,
    works,
)
from twd.speculator.targets.source import ReadySource
from twd.wire.base import ModelId, NodeId
from twd.wire.draft import DeviceKind
from twd.wire.model import CostPoint

QUICK = CostCurve([CostPoint(width=1, ms=10.0), CostPoint(width=32, ms=20.0)])
CPU, GPU = DeviceKind.CPU, DeviceKind.GPU
IDLE = ProcessEffort()


def test_a_quick_gpu_that_hangs_is_noticed_in_seconds_and_anything_new_is_given_time() -> None:
    assert patience_s(10.0, familiar=True) == LEAST_S
    assert patience_s(10.0, familiar=False) == UNKNOWN_S
    assert patience_s(4000.0, familiar=True) == 16.0
    assert patience_s(600_000.0, familiar=False) == 2400.0
    assert patience_s(10.0, familiar=True, crowding=2.0) == 2 * LEAST_S


@given(st.floats(0.001, 1e7), st.floats(0, 1e7), st.booleans(), st.floats(0, 100), st.floats(0, 100))
def test_patience_grows_with_what_is_expected_and_is_never_short(
    expected_ms: float, more_ms: float, familiar: bool, crowding: float, more_crowding: float
) -> None:
    patience = patience_s(expected_ms, familiar=familiar, crowding=crowding)
    assert patience >= max(LEAST_S, FACTOR * expected_ms / 1000)
    assert patience <= patience_s(expected_ms, familiar=False, crowding=crowding)
    assert patience <= patience_s(expected_ms + more_ms, familiar=familiar, crowding=crowding + more_crowding)


def test_passes_of_new_sizes_are_unfamiliar_and_slow_ones_are_remembered() -> None:
    pace = PassTimes()
    assert not pace.familiar(1)
    pace.begins(64, 10.0)
    assert pace.now == PassUnderWay(10.0, 64)
    pace.begins(1, 13.0)
    assert (pace.familiar(100), pace.familiar(200)) == (True, False)
    assert pace.expected_ms(64, QUICK) == 3000.0
    assert pace.expected_ms(1, QUICK) == 10.0
    assert pace.expected_ms(512, QUICK) == 3000.0
    pace.ends(13.5)
    over: PassUnderWay | None = pace.now
    assert (over, pace.expected_ms(1, QUICK)) == (None, 500.0)
    for number in range(500):
        pace.begins(1, float(number))
        pace.ends(number + 0.01)
    assert pace.expected_ms(1, QUICK) == pytest.approx(10.0)


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(0.001, 400)), min_size=1, max_size=30))
def test_a_machine_whose_passes_take_minutes_is_given_many_times_as_long(passes: list[tuple[int, float]]) -> None:
    pace, now = PassTimes(), 0.0
    for rows, seconds in passes:
        pace.begins(rows, now)
        now += seconds
        pace.ends(now)
    rows, seconds = passes[-1]
    assert pace.familiar(rows)
    assert patience_s(pace.expected_ms(rows, QUICK), familiar=True) >= 0.99 * FACTOR * seconds


def test_only_what_passes_between_two_looks_counts_and_a_sleep_counts_as_one() -> None:
    watch, one = DecodeWatchdog(), PassUnderWay(0.0, 1)
    assert watch.look(one, 5.0, IDLE, GPU) == 0.0
    assert watch.look(one, 6.0, IDLE, GPU) == 1.0
    assert watch.look(one, 40_000.0, IDLE, GPU) == 1.0 + LOOK_MOST_S
    assert watch.look(PassUnderWay(40_000.5, 1), 40_001.0, IDLE, GPU) == 0.0
    assert watch.look(None, 40_002.0, IDLE, GPU) == 0.0


def test_while_it_swaps_or_the_processor_computes_little_of_the_time_counts() -> None:
    one, busy = PassUnderWay(0.0, 1), [ProcessEffort(second * 0.5, 0) for second in range(101)]
    swapping = [ProcessEffort(0.0, second * 50) for second in range(101)]
    for told, device, counted in (
        (busy, CPU, 100 * WORKING_SHARE),
        (busy, GPU, 100.0),
        (swapping, CPU, 100 * WORKING_SHARE),
        (swapping, GPU, 100 * WORKING_SHARE),
    ):
        watch = DecodeWatchdog()
        waited = [watch.look(one, float(second), told[second], device) for second in range(101)]
        assert waited[-1] == pytest.approx(counted)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100), st.integers(0, 10_000)), max_size=50))
def test_never_more_is_counted_than_went_by(looks: list[tuple[float, float, int]]) -> None:
    watch, one, now, done = DecodeWatchdog(), PassUnderWay(0.0, 1), 0.0, ProcessEffort()
    watch.look(one, now, done, CPU)
    for seconds, cpu_s, faults in looks:
        now, done = now + seconds, ProcessEffort(done.cpu_s + cpu_s, done.faults + faults)
        assert watch.look(one, now, done, CPU) <= min(now, LOOK_MOST_S * len(looks)) + 1e-6


def test_this_process_is_seen_to_work() -> None:
    before = effort()
    while not works(before, effort(), 0.001, CPU):
        sum(range(1000))
    assert not works(before, before, 1.0, CPU)


async def test_what_a_hung_thread_computes_with_is_not_freed_under_its_hands() -> None:
    freed: list[str] = []
    model: Any = SimpleNamespace(close=lambda: freed.append("model"))

    def stop_in_time() -> bool:
        return in_time

    for in_time in (False, True):
        bus = MemoryBroker().connect("n")
        ctx = ServiceContext(bus=bus, node=NodeId("n"), clock=SystemClock(), ids=Ids())
        speculator: Any = SpeculatorService(ctx, ModelId("m"), ReadySource(lambda progress: model))
        speculator.loaded = model
        speculator._runner = SimpleNamespace(post=lambda call: None, stop=stop_in_time)
        await speculator.teardown()
        assert freed == (["model"] if in_time else [])
