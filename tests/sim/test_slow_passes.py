"""Models that are slow are not taken for dead, and passes that never end are."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.sim.engines import MODEL, REAL, PlayedModel, PlayedRunner, played_engines
from tests.sim.plan import Plan, PlannedJob
from tests.sim.world import World
from twd.decoding.cost import CostCurve
from twd.kit.jobs.owner import Finish, OwnerPolicy
from twd.kit.service import ServiceContext
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.source import ReadySource
from twd.wire.draft import DeviceKind
from twd.wire.job import TokensAccepted
from twd.wire.model import CostPoint
from twd.wire.service import ServiceFaulted

SLOW_S = 1.2 * OwnerPolicy().silence_s
JOB = PlannedJob(at=2 * SLOW_S, edge="edge-0", prompt="a long one", seed=3, max_tokens=3, deadline_s=80.0)
PLAN = Plan(1, {"speculator-0": "n0", "edge-0": "n0"}, [JOB])


class SlowModel(PlayedModel):
    """Each of its passes takes longer than an owner bears silence."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = CostCurve([CostPoint(width=1, ms=1000 * SLOW_S), CostPoint(width=32, ms=1001 * SLOW_S)])


class ThinkingModel(PlayedModel):
    """Prepares every job on a thread."""

    @property
    def local(self) -> bool:
        return False


def world_with(model: type[PlayedModel]) -> World:
    class Serving(SpeculatorService):
        def __init__(self, ctx: ServiceContext) -> None:
            super().__init__(ctx, MODEL, ReadySource(lambda progress: model()))

    return World(PLAN, {**REAL, "speculator": Serving})


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tests.sim.world.PROBE_DEADLINE_S", 85.0)
    with played_engines():
        yield


def finished_at_once(world: World) -> bool:
    """Whether the first worker that took the job brought it to its end."""
    end = world.diaries[0].ends[0][1]
    return isinstance(end, Finish) and end.event.attempt == 1


def test_a_job_survives_passes_that_take_longer_than_its_owner_bears_silence() -> None:
    world = world_with(SlowModel)
    assert world.play() == []
    assert finished_at_once(world)


def test_a_job_survives_a_preparation_that_takes_as_long() -> None:
    world = world_with(ThinkingModel)
    world.loop.thread_s = lambda: SLOW_S
    assert world.play() == []
    assert finished_at_once(world)


def test_while_all_goes_quickly_there_are_no_signs_of_life() -> None:
    world = World(PLAN, REAL)
    assert world.play() == []
    told = [event for _, _, event in world.witness.heard if isinstance(event, TokensAccepted)]
    assert all(event.tokens or event.text for event in told)


def test_a_pass_that_never_ends_is_given_up_and_another_worker_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    hung: list[PlayedRunner] = []

    def pass_s(runner: PlayedRunner, rows: int) -> float:
        if not hung or runner is hung[0]:
            hung[:] = [runner]
            return 1e6
        return 0.1

    monkeypatch.setattr(PlayedRunner, "pass_s", pass_s)
    monkeypatch.setattr("twd.speculator.targets.decode_watchdog.UNKNOWN_S", 20.0)
    world = World(PLAN, REAL)
    wrong = world.play()
    assert [event for _, _, event in world.witness.heard if isinstance(event, ServiceFaulted)]
    assert isinstance(world.diaries[0].ends[0][1], Finish), wrong


def test_a_device_that_was_quick_is_given_up_when_a_pass_takes_far_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(PlayedModel):
        """On a device whose passes are quick."""

        def __init__(self) -> None:
            super().__init__()
            self.limits = replace(self.limits, device=DeviceKind.GPU)

    hung: dict[PlayedRunner, int] = {}

    def pass_s(runner: PlayedRunner, rows: int) -> float:
        hung[runner] = hung.get(runner, 0) + 1
        return 1e6 if runner is next(iter(hung)) and hung[runner] > 5 and rows == 1 else 0.1

    monkeypatch.setattr(PlayedRunner, "pass_s", pass_s)
    world = world_with(OnGpu)
    wrong = world.play()
    told = [event for _, _, event in world.witness.heard if isinstance(event, ServiceFaulted)]
    assert "it hangs" in told[0].failure.message
    assert isinstance(world.diaries[0].ends[0][1], Finish), wrong
