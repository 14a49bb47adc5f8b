"""One role at a time is hostile: texts stay true, nobody loses a job, no prompt is seen by who may not see it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.sim.engines import REAL, played_engines
from tests.sim.plan import draw_plan
from tests.sim.traitor import BetrayedWorld
from tests.sim.world import DOUBLES, MODEL
from twd.bus.permissions import ROLES
from twd.kit.jobs.owner import Finish
from twd.wire.codec import decode
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.embedding import EmbeddingRequested
from twd.wire.job import JobFinished, JobSubmitted, TokensAccepted
from twd.wire.names import origin_of

SEEDS = range(4)
SOME = [range(2), pytest.param(range(2, 4), marks=pytest.mark.thorough)]
WORKERS = ("speculator", "relay", "drafter")
PROMPTS = (JobSubmitted, SessionOpened, EmbeddingRequested)
TEXTS = (TokensAccepted, JobFinished, DraftProposed)


@pytest.fixture(autouse=True)
def engines() -> Iterator[None]:
    with played_engines():
        yield


def play(seed: int, role: str, model: str, services: object = DOUBLES) -> BetrayedWorld:
    """A world without other faults: whatever is lost is the traitor's doing."""
    plan = draw_plan(seed)
    units = {name: node for name, node in plan.units.items() if not name.startswith("hostile")}
    world = BetrayedWorld(replace(plan, units=units, faults=[]), services)  # type: ignore[arg-type]
    world.role, world.model = role, model
    wrong = world.play()
    assert not wrong, world.witness.story(world.plan, wrong)
    return world


def check(world: BetrayedWorld) -> None:
    assert world.traitor.heard or not any(role.hears_everything for role in ROLES if role.name == world.role)
    prompts = [one for one in world.traitor.heard if isinstance(decode(one.data), PROMPTS)]
    if (world.role, world.model) == ("drafter", MODEL):  # of its own model a drafter is told prompts, by name
        prompts = [one for one in prompts if not one.subject.endswith(f".{origin_of(world.traitor.name)}")]
    assert not prompts, f"{world.role} heard {prompts[0].subject}"


@pytest.mark.parametrize("seeds", SOME, ids=str)
@pytest.mark.parametrize("services", [DOUBLES, REAL], ids=["doubles", "real"])
@pytest.mark.parametrize("role", [role.name for role in ROLES])
def test_a_hostile_role_changes_no_text_loses_no_job_and_sees_no_prompt(
    role: str, services: object, seeds: range
) -> None:
    for seed in seeds:
        check(play(seed, role, MODEL, services))


@pytest.mark.parametrize("seeds", SOME, ids=str)
@pytest.mark.parametrize("role", WORKERS)
def test_a_hostile_worker_of_another_model_has_no_part_in_this_ones_jobs(role: str, seeds: range) -> None:
    for seed in seeds:
        world = play(seed, role, "another", REAL)
        check(world)
        texts = [one for one in world.traitor.heard if isinstance(decode(one.data), TEXTS)]
        assert not texts, "not even what is made of the prompts"


def test_these_worlds_are_worth_their_time() -> None:
    """The traitor gets something through, and jobs end all the same."""
    worlds = [play(seed, "speculator", MODEL, REAL) for seed in SEEDS]
    assert all(world.traitor.bus.let_through > 20 for world in worlds)
    ends = [diary.ends[0][1] for world in worlds for diary in world.diaries if diary.ends]
    assert sum(isinstance(end, Finish) for end in ends) > 0.6 * len(ends)
