"""The real planner on a played pipeline: what windows in flight must bring, whatever the distance."""

from collections.abc import Callable
from itertools import pairwise
from statistics import mean

import pytest

from twd.bench.pipeline import FixedRing, PipelineSpec
from twd.bench.rates import rate_together
from twd.bench.ring.simulated import SimulatedRing
from twd.decoding.pipeline import PipelineState
from twd.wire.model import CostPoint

SEEDS = (1, 2)
ONE_IN_FLIGHT = (3, 4, 6, 8, 12, 16)


def stage(rows: int) -> float:
    """About what half of a small float model takes on one core."""
    return 4.2 + 1.45 * rows if rows > 2 else 5.0 + 0.6 * (rows - 1)


def heavy(rows: int) -> float:
    """Where a pass costs much and a row little: half of a float model on a slow core, two rows at the least."""
    points = ((2, 16.5), (4, 18.1), (8, 25.6), (16, 37.9), (64, 113.0))
    for (less, fewer_ms), (more, ms) in pairwise(points):
        if rows <= more:
            return fewer_ms + (ms - fewer_ms) * (max(rows, less) - less) / (more - less)
    return points[-1][1] * rows / points[-1][0]


def line(rtt: float, stages: int = 2) -> PipelineSpec:
    return PipelineSpec((stage,) * stages, rtt / 2)


def heavy_line(rtt: float) -> PipelineSpec:
    return PipelineSpec((heavy, heavy), rtt / 2, rows_min=2)


def best_one_in_flight(rtt: float, wrong: float) -> float:
    return max(mean(FixedRing(line(rtt), wrong, w, 1, 192, seed).run().rate for seed in SEEDS) for w in ONE_IN_FLIGHT)


@pytest.mark.parametrize(
    ("rtt", "wrong", "gain"),
    [
        (0, 0.1, 1.2),
        (20, 0.25, 1.2),
        *(
            pytest.param(rtt, wrong, 1.2, marks=pytest.mark.thorough)
            for rtt, wrong in ((0, 0.25), (2, 0.1), (2, 0.25), (10, 0.1), (10, 0.25), (20, 0.1))
        ),
    ],
)
def test_windows_in_flight_beat_the_best_one_at_a_time_and_waste_little(rtt: float, wrong: float, gain: float) -> None:
    played = [SimulatedRing(line(rtt), wrong, tokens=192, seed=seed).run() for seed in SEEDS]
    assert mean(one.rate for one in played) >= gain * best_one_in_flight(rtt, wrong)
    assert mean(one.waste for one in played) < (2.0 if wrong <= 0.1 else 2.4)


def test_with_sure_guesses_the_network_hardly_shows() -> None:
    near, far = (SimulatedRing(line(rtt), 0.0, tokens=512).run() for rtt in (0, 20))
    plain = SimulatedRing(line(20), drafts=False, tokens=48).run()
    assert far.rate >= 0.9 * near.rate
    assert far.rate >= 15 * plain.rate


@pytest.mark.parametrize("stages", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_sessions_fill_the_pipe(stages: int) -> None:
    rates = {
        count: SimulatedRing(line(20, stages), sessions=count, drafts=False, tokens=48).run().rate
        for count in (1, 4, 8)
    }
    assert rates[4] >= 3.9 * rates[1]
    assert rates[8] >= 7 * rates[1]


@pytest.mark.parametrize("rtt", [0, 20])
def test_sessions_come_to_share_passes_where_those_are_dear_however_they_began(rtt: float) -> None:
    def rate(count: int) -> float:
        ring = SimulatedRing(heavy_line(rtt), sessions=count, drafts=False, tokens=96, prompt=60)
        ring.run()
        return rate_together(list(ring.times.values()))

    assert rate(8) >= 7 * rate(1)


@pytest.mark.parametrize("rtt", [0, pytest.param(10, marks=pytest.mark.thorough), 20])
@pytest.mark.parametrize("pace", [stage, pytest.param(heavy, marks=pytest.mark.thorough)])
def test_long_pipes_waste_little(rtt: float, pace: Callable[[int], float]) -> None:
    pipe = PipelineSpec((lambda rows: pace(rows) / 2,) * 4, rtt / 2, rows_min=2)
    played = [SimulatedRing(pipe, 0.1, tokens=192, seed=seed).run() for seed in SEEDS]
    assert mean(one.waste for one in played) < 2.0


THE_OTHERS = ((0, 0.1, 1.2), (20, 0.1, 1.2), (0, 0.25, 1.15))


@pytest.mark.parametrize(
    ("rtt", "wrong", "gain"),
    [(20, 0.25, 1.12), *(pytest.param(*case, marks=pytest.mark.thorough) for case in THE_OTHERS)],
)
def test_windows_in_flight_pay_where_passes_are_dear(rtt: float, wrong: float, gain: float) -> None:
    lone = max(
        mean(FixedRing(heavy_line(rtt), wrong, w, 1, 192, seed).run().rate for seed in SEEDS) for w in ONE_IN_FLIGHT
    )
    played = [SimulatedRing(heavy_line(rtt), wrong, tokens=192, seed=seed).run() for seed in SEEDS]
    assert mean(one.rate for one in played) >= gain * lone


@pytest.mark.parametrize(
    ("wrong", "token_ms", "gain"), [pytest.param(0.04, 8.0, 5.0, marks=pytest.mark.thorough), (0.25, 5.0, 2.5)]
)
def test_a_draft_model_on_a_machine_of_its_own_hides_the_network(wrong: float, token_ms: float, gain: float) -> None:
    plain = SimulatedRing(heavy_line(20), drafts=False, tokens=48).run()
    drafted = [SimulatedRing(heavy_line(20), wrong, tokens=192, token_ms=token_ms, seed=seed).run() for seed in SEEDS]
    assert mean(one.rate for one in drafted) >= gain * plain.rate


def test_guesses_help_even_beside_other_sessions() -> None:
    plain, drafted = (
        SimulatedRing(line(20), 0.1, sessions=4, drafts=drafts, tokens=96).run() for drafts in (False, True)
    )
    assert drafted.rate > 1.5 * plain.rate


def test_a_long_prompt_is_read_by_all_stages_at_once() -> None:
    def first_ms(stages: int, prompt: int) -> float:
        part = PipelineSpec(tuple(lambda rows: stage(rows) * 2 / stages for _ in range(stages)), 0.5)
        ring = SimulatedRing(part, tokens=2, prompt=prompt, drafts=False)
        ring.run()
        return ring.first_ms

    assert first_ms(1, 1024) > 1.7 * first_ms(2, 1024)
    assert first_ms(1, 128) > 1.4 * first_ms(2, 128), "a short one in shorter chunks"


def test_a_prompt_is_read_at_full_pace_whatever_was_measured() -> None:
    def first_ms(pipe: PipelineState) -> float:
        ring = SimulatedRing(line(2), tokens=2, prompt=1024, drafts=False, pipe=pipe)
        ring.run()
        return ring.first_ms

    known = line(2).pipe()
    slower = PipelineSpec(tuple(lambda rows: 3 * stage(rows) for _ in range(2)), 1.0).pipe()
    assert first_ms(slower) < 1.05 * first_ms(known)


def test_a_slower_ring_than_was_measured_is_noticed() -> None:
    told = [CostPoint(width=1, ms=1.0), CostPoint(width=32, ms=4.0)]
    wrong = PipelineState(told, told, 0.0, 32)
    learned = SimulatedRing(line(10), 0.1, pipe=wrong, tokens=256).run()
    known = SimulatedRing(line(10), 0.1, tokens=256).run()
    assert learned.rate > 0.75 * known.rate
    assert wrong.step_ms(4) > 5.0
