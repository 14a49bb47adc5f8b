"""Thousands of worlds from thousands of seeds, all invariants in each.

`TWD_SIM_WORLDS` says how many worlds (10000 where it is not set), `TWD_SIM_FIRST` from which seed on.
The first 300 are quick tests, the others thorough ones (`pytest -m thorough`).
A broken world prints its seed; `TWD_SIM_SEED=N pytest tests/sim/test_worlds.py` plays that one again.
"""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.sim.doubles import POISON
from tests.sim.engines import REAL, played_engines
from tests.sim.plan import BrokerDown, CutOff, Drain, Kill, Noise, Partition, Pause, PowerCut, draw_plan
from tests.sim.units import ServiceFactory
from tests.sim.world import DOUBLES, World, play_many, run_world
from twd.kit.jobs.owner import Finish

WORLDS = int(os.environ.get("TWD_SIM_WORLDS", "10000"))
FIRST = int(os.environ.get("TWD_SIM_FIRST", "0"))
CHUNK = 100
REAL_EVERY = 8
"""Every eighth world has the real speculator, drafter and desk; the others cost a quarter of it."""
SEEDS = [int(seed) for seed in os.environ.get("TWD_SIM_SEED", "").split(",") if seed]
COUNTED = 200
"""The first worlds, in which is also counted what happens; that does for them."""
QUICK = 300
CHUNKS = [
    range(start, min(start + CHUNK, FIRST + WORLDS)) for start in range(max(FIRST, COUNTED), FIRST + WORLDS, CHUNK)
]
MARKED = [
    pytest.param(seeds, marks=pytest.mark.thorough) if seeds.start >= FIRST + QUICK else seeds for seeds in CHUNKS
]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def engines() -> Iterator[None]:
    with played_engines():
        yield


def services_of(seed: int) -> Mapping[str, ServiceFactory]:
    return REAL if seed % REAL_EVERY == 0 else DOUBLES


def play(seed: int) -> World:
    return run_world(draw_plan(seed, poison=POISON), services_of(seed))


@pytest.mark.skipif(bool(SEEDS), reason="only the seeds of TWD_SIM_SEED are played")
@pytest.mark.parametrize("seeds", MARKED, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_all_invariants_hold(seeds: range) -> None:
    play_many(seeds, play)


@pytest.mark.skipif(not SEEDS, reason="TWD_SIM_SEED is not set")
@pytest.mark.parametrize("seed", SEEDS)
def test_replay(seed: int) -> None:
    world = play(seed)
    print(world.witness.story(world.plan, []))


def digest(seed: int) -> str:
    """All that was said in a world, in order, with times."""
    heard = play(seed).witness.heard
    return hashlib.sha256(repr(heard).encode()).hexdigest()


SAME = 9
"""Worlds that are played twice; the first and the last of them with the real services."""


def test_a_seed_gives_the_same_world_again() -> None:
    once = [digest(seed) for seed in range(SAME)]
    for seed in range(100, 110):
        play(seed)
    assert [digest(seed) for seed in range(SAME)] == once


def test_a_seed_gives_the_same_world_in_any_process() -> None:
    code = (
        "from tests.sim.test_worlds import digest, played_engines\n"
        "with played_engines():\n"
        f"    print(*map(digest, range({SAME})))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    one, other = (process.communicate(timeout=300)[0] for process in processes)
    assert len(one.split()) == SAME
    assert one == other


@pytest.mark.skipif(bool(SEEDS), reason="only the seeds of TWD_SIM_SEED are played")
def test_worlds_are_worth_their_time() -> None:
    """All invariants hold, faults of every kind happen, jobs change hands, and most of them finish all the same."""
    kinds: Counter[type] = Counter()
    jobs = finished = attempts = 0

    def count(seed: int) -> None:
        nonlocal jobs, finished, attempts
        world = play(seed)
        kinds.update(map(type, world.plan.faults))
        jobs += len(world.diaries)
        ends = [diary.ends[0][1] for diary in world.diaries if diary.ends]
        finished += sum(isinstance(end, Finish) for end in ends)
        attempts += sum(end.event.attempt > 1 for end in ends if isinstance(end, Finish))

    play_many(range(COUNTED), count)
    assert all(kinds[kind] >= 10 for kind in (Kill, Pause, Drain, PowerCut, Partition, CutOff, BrokerDown, Noise))
    assert finished > 0.8 * jobs
    assert attempts > 0.05 * jobs
