"""Changes of models without processes: the order of things, what is told, and what is taken back."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.coordinator.machines import DESK
from tests.gguf_tools.test_inspect import write
from tests.supervisor.model_house import house, swap, wanted
from tests.waiting import until
from twd.process.supervisor import ProcessSpec
from twd.settings.model import DrafterConfig, ModelConfig, PoolConfig, Settings
from twd.supervisor import memory_check as room
from twd.supervisor import model_life
from twd.supervisor.model_changes import MemoryRoom
from twd.wire.base import EventId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.life import ChangeStep, ModelUnwanted, ModelWanted


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    models = {name: ModelConfig(path=str(write(tmp_path / f"{name}.gguf"))) for name in ("old", "new", "other")}
    return Settings(models=models, drafters=(DrafterConfig(path="d.gguf", name="d", for_model="new"),))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[MemoryRoom], None]:
    def say(found: MemoryRoom) -> None:
        monkeypatch.setattr(room, "room_for", lambda *_: found)

    say(MemoryRoom(1, 100))
    return say


async def test_the_new_model_serves_before_the_old_one_goes(
    settings: Settings, memory: Callable[[MemoryRoom], None]
) -> None:
    async with house(settings, "old") as here:
        told = await here.change(swap("new"))
        assert here.process_group.story == [
            *("loading old", "+speculator.new", "+drafter.d", "draining new", "-speculator.old", "done new")
        ]
        assert told is not None
        assert (told.models, told.default, told.failure) == (["new"], "new", None)
        assert here.kept[0].default_model == "old"
        assert here.kept[-1].default_model == "new"


async def test_a_model_is_stopped_by_what_it_was_started_with(
    settings: Settings, memory: Callable[[MemoryRoom], None], tmp_path: Path
) -> None:
    file = str(write(tmp_path / "another.gguf"))
    async with house(settings, "old") as here:
        await here.change(wanted(file))
        assert "speculator.another" in here.table.rows
        told = await here.change(ModelUnwanted(id=EventId("c1"), node=DESK, model=file))
        assert told is not None
        assert (told.models, told.model) == (["old"], "another")
        told = await here.change(ModelUnwanted(id=EventId("c1"), node=DESK, model=settings.models["old"].path))
        assert told is not None
        assert told.models == []


async def test_without_room_for_both_the_old_one_goes_first(
    settings: Settings, memory: Callable[[MemoryRoom], None]
) -> None:
    memory(MemoryRoom(90, 50, 60))
    async with house(settings, "old") as here:
        await here.change(swap("new"))
        assert here.process_group.story == [
            *("draining new", "-speculator.old", "loading new", "+speculator.new", "+drafter.d", "done new")
        ]


async def test_a_model_that_does_not_load_leaves_the_old_one_alone(
    settings: Settings, memory: Callable[[MemoryRoom], None]
) -> None:
    async with house(settings, "old") as here:
        here.process_group.bad = {"speculator.new"}
        told = await here.change(swap("new"))
        assert told is not None
        assert told.failure is not None
        assert told.failure.code is FailureCode.MODEL_LOAD
        assert "llama.cpp cannot load it" in told.failure.message
        assert (told.models, told.default, told.note) == (["old"], "old", "old serves as before")
        assert "speculator.old" in here.table.rows
        assert not {"speculator.new", "drafter.d"} & set(here.table.rows)
        assert here.kept[-1] == settings


async def test_a_failure_after_the_old_one_has_gone_brings_it_back(
    settings: Settings, memory: Callable[[MemoryRoom], None]
) -> None:
    memory(MemoryRoom(90, 50, 60))
    async with house(settings, "old") as here:
        here.process_group.bad = {"speculator.new"}
        told = await here.change(swap("new"))
        assert told is not None
        assert told.note == "old serves again"
        assert told.default == "old"
        assert list(here.table.rows) == ["speculator.old"]
        assert [one.step for one in here.told][-2:] == [ChangeStep.ROLLING_BACK, ChangeStep.FAILED]


@pytest.mark.parametrize("name", ["nothing", "/no/such/file.gguf"])
async def test_a_wrong_name_changes_nothing(
    settings: Settings, memory: Callable[[MemoryRoom], None], name: str
) -> None:
    async with house(settings, "old") as here:
        with pytest.raises(TwdError):
            await here.life.begin(swap(name))
        with pytest.raises(TwdError, match="served are: old"):
            await here.life.begin(swap("new", "other"))
        assert here.process_group.story == []
        assert here.kept == []
        assert await here.change(swap("new")) is not None  # nothing is left under way


async def test_a_broken_file_is_refused_before_anything_happens(
    settings: Settings, memory: Callable[[MemoryRoom], None], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF no more")
    async with house(settings, "old") as here:
        with pytest.raises(TwdError, match=r"broken\.gguf"):
            await here.life.begin(swap(str(broken)))
        assert here.process_group.story == []


async def test_one_change_at_a_time(settings: Settings, memory: Callable[[MemoryRoom], None]) -> None:
    async with house(settings, "old") as here:
        await here.life.begin(swap("new"))
        with pytest.raises(TwdError, match="new loads beside old") as refused:
            await here.life.begin(wanted("other"))
        assert refused.value.code is FailureCode.BUSY


async def test_start_and_stop(settings: Settings, memory: Callable[[MemoryRoom], None]) -> None:
    async with house(settings, "old") as here:
        assert await here.change(wanted("old")) is None
        told = await here.change(wanted("other"))
        assert told is not None
        assert (told.models, told.default) == (["old", "other"], "old")
        told = await here.change(ModelUnwanted(id=EventId("c2"), node=DESK, model="old"))
        assert told is not None
        assert (told.models, told.default) == (["other"], "other")
        told = await here.change(ModelUnwanted(id=EventId("c3"), node=DESK))
        assert told is not None
        assert (told.models, told.default) == ([], "")
        assert here.table.rows == {}
        assert await here.change(ModelUnwanted(id=EventId("c4"), node=DESK)) is None


async def test_a_model_that_has_no_room_beside_the_others_is_not_started(
    settings: Settings, memory: Callable[[MemoryRoom], None]
) -> None:
    memory(MemoryRoom(90, 50, 60))
    async with house(settings, "old") as here:
        with pytest.raises(TwdError, match="twd swap") as refused:
            await here.life.begin(wanted("new"))
        assert refused.value.code is FailureCode.OUT_OF_MEMORY


async def test_where_nothing_is_served_there_is_nobody_to_wait_for(
    settings: Settings, memory: Callable[[MemoryRoom], None]
) -> None:
    memory(MemoryRoom(90, 0, certain=False))
    async with house(settings) as here:
        told = await here.change(wanted("new"))
        assert told is not None
        assert told.models == ["new"]


async def test_a_pooled_model_starts_stops_and_comes_back(settings: Settings) -> None:
    pooled = msgspec.structs.replace(settings, mode="combined", pool=PoolConfig(engine="rpc"))
    async with house(pooled, "old") as here:
        for wish in (wanted("new"), ModelUnwanted(id=EventId("c2"), node=DESK), wanted("old")):
            told = await here.change(wish)
            assert told is not None
            assert told.step is ChangeStep.DONE
        assert here.life.models == ["old"]
        here.free = 1 << 12
        with pytest.raises(TwdError, match="the pool has no place for new"):
            await here.life.begin(wanted("new"))


async def test_an_agent_that_looks_round_yet_is_waited_for(
    settings: Settings, memory: Callable[[MemoryRoom], None], tmp_path: Path
) -> None:
    async with house(settings) as here:
        here.looks_left = 1
        here.found = write(tmp_path / "found.gguf")
        told = await here.change(wanted("found"))
        assert told is not None
        assert told.models == ["found"]


@pytest.mark.parametrize("writes", [0, 1])
async def test_on_a_full_disk_a_change_is_taken_back(
    settings: Settings, memory: Callable[[MemoryRoom], None], writes: int
) -> None:
    async with house(settings, "old") as here:
        here.full_at = (writes,)
        told = await here.change(swap("new"))
        assert told is not None
        assert told.failure is not None
        assert told.failure.message == "the disk is full"
        assert (told.models, told.default, told.note) == (["old"], "old", "old serves as before")
        assert list(here.table.rows) == ["speculator.old"]
        here.full_at = ()
        told = await here.change(swap("new"))
        assert told is not None
        assert told.models == ["new"]


async def test_a_fault_of_ours_changes_nothing_and_is_told(
    settings: Settings, memory: Callable[[MemoryRoom], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[str] = []

    async def broken(change: object) -> None:
        raise RuntimeError("a fault of ours")

    async with house(settings, "old") as here:
        monkeypatch.setattr(here.life._tasks, "_on_error", lambda name, error: faults.append(str(error)))
        monkeypatch.setattr(here.life, "_drain", broken)
        told = await here.change(swap("new"))
        assert told is not None
        assert told.failure is not None
        assert (told.failure.code, told.models) == (FailureCode.INTERNAL, ["old"])
        await until(lambda: faults == ["a fault of ours"], "the fault is told where faults go")
        assert list(here.table.rows) == ["speculator.old"]


async def test_swapping_to_one_that_serves_already_only_ends_the_other(
    settings: Settings, memory: Callable[[MemoryRoom], None]
) -> None:
    async with house(settings, "old", "other") as here:
        told = await here.change(swap("other"))
        assert here.process_group.story == ["draining other", "-speculator.old", "done other"]
        assert told is not None
        assert told.models == ["other"]
        assert await here.change(swap("other")) is None


async def test_how_a_model_comes_into_memory_can_be_said(
    settings: Settings, memory: Callable[[MemoryRoom], None]
) -> None:
    async with house(settings) as here:
        wish = ModelWanted(id=EventId("c1"), node=DESK, model="old", ram_reclaim="on", prewarm=False)
        await here.change(wish)
        assert here.process_group.arguments["speculator.old"][-3:] == ("--ram-reclaim", "on", "--no-prewarm")


async def test_a_model_with_jobs_is_waited_for(settings: Settings, memory: Callable[[MemoryRoom], None]) -> None:
    async with house(settings, "old") as here:
        here.table.rows["speculator.old"].facts = SpeculatorFacts(sessions=1)
        await here.life.begin(ModelUnwanted(id=EventId("c1"), node=DESK, model="old"))
        await until(lambda: bool(here.told), "it drains")
        here.life.news.set()
        await until(lambda: not here.life.news.is_set(), "it looks again")
        assert "-speculator.old" not in here.process_group.story
        here.table.rows["speculator.old"].facts = SpeculatorFacts()
        here.life.news.set()
        await until(lambda: here.told[-1].step is ChangeStep.DONE, "it is gone")


async def test_the_coordinator_of_a_pool_plans_anew(settings: Settings, memory: Callable[[MemoryRoom], None]) -> None:
    pooled = msgspec.structs.replace(settings, mode="combined", pool=PoolConfig(engine="rpc"))
    async with house(pooled, "old") as here:
        here.process_group.take(ProcessSpec("coordinator", ("x",)))
        here.process_group.story.clear()
        await here.change(swap("new"))
        assert here.process_group.story[:2] == ["-coordinator", "+coordinator"]
        served = [name for name, model in here.kept[-1].models.items() if model.serve]
        assert served == ["new"]


async def test_a_model_that_gets_no_further_is_taken_back(
    settings: Settings, memory: Callable[[MemoryRoom], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_life, "STALLED_S", 0.0)
    async with house(settings, "old") as here:
        here.process_group.slow = {"speculator.new"}
        told = await here.change(swap("new"))
        assert told is not None
        assert told.failure is not None
        assert "waits for machines" in told.failure.message
        assert told.models == ["old"]


async def test_a_pool_may_be_told_to_mind_no_versions(settings: Settings, memory: Callable[[MemoryRoom], None]) -> None:
    pooled = msgspec.structs.replace(settings, mode="combined", pool=PoolConfig(engine="rpc"))
    async with house(pooled) as here:
        here.process_group.take(ProcessSpec("coordinator", ("x",)))
        await here.change(ModelWanted(id=EventId("c1"), node=DESK, model="old", skip_version_check=True))
        assert here.kept[-1].pool.skip_version_check
        assert "+coordinator" in here.process_group.story[1:], "the one who decides is told"
        assert here.life.serving.settings.pool.skip_version_check, "what starts later goes by it, too"


async def test_a_named_head_guesses_for_the_model_that_starts(settings: Settings) -> None:
    async with house(settings) as here:
        await here.change(ModelWanted(id=EventId("c1"), node=DESK, model="old", head="/m/head.gguf"))
        first, *others = here.life.serving.settings.drafters
        assert (first.head, first.for_model) == ("/m/head.gguf", "old")
        assert not any(drafter.head for drafter in others)
        assert here.kept[-1].drafters == (first, *others)
