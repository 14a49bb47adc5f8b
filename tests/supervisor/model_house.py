"""An installation whose processes are played, for changes of models."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from tests.coordinator.machines import DESK, machine
from tests.waiting import until
from twd.bus.base import LeaseEntry
from twd.kit.clock import SystemClock
from twd.kit.tasks import TaskGroup
from twd.process.process_table import ProcessRow, ProcessTable, StartPhase
from twd.process.supervisor import ProcessSpec
from twd.settings.model import Settings
from twd.supervisor.model_changes import serving
from twd.supervisor.model_life import ModelLife
from twd.supervisor.process_group import ProcessGroup
from twd.supervisor.service import Wish
from twd.wire.base import EventId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.life import ChangeStep, ChangeTold, ModelWanted, SwapWanted
from twd.wire.node import MemoryFacts, ModelFile, node_key


class FakeCrew:
    """A crew without processes: what is taken is ready at once, or fails as it was told to."""

    def __init__(self, table: ProcessTable) -> None:
        self.table = table
        self.story: list[str] = []
        self.bad: set[str] = set()
        self.slow: set[str] = set()
        self.arguments: dict[str, tuple[str, ...]] = {}

    def take(self, spec: ProcessSpec) -> None:
        stage, note = StartPhase.READY, ""
        if spec.name in self.bad:
            stage, note = StartPhase.FAILED, "llama.cpp cannot load it"
        elif spec.name in self.slow:
            stage, note = StartPhase.LOADING, "waits for machines"
        self.table.rows[spec.name] = ProcessRow(name=spec.name, stage=stage, note=note)
        self.story.append(f"+{spec.name}")
        self.arguments[spec.name] = spec.argv

    async def end(self, names: Sequence[str]) -> None:
        for name in names:
            if self.table.rows.pop(name, None) is not None:
                self.story.append(f"-{name}")

    def pids(self, names: Sequence[str]) -> list[int]:
        return []


class House:
    """One installation with its models."""

    def __init__(self, settings: Settings, wanted: Sequence[str], tasks: TaskGroup) -> None:
        self.table = ProcessTable()
        self.process_group = FakeCrew(self.table)
        self.told: list[ChangeTold] = []
        self.kept: list[Settings] = []
        self.life = ModelLife(
            as_crew(self.process_group),
            self.table,
            serving(settings, wanted),
            node=DESK,
            clock=SystemClock(),
            keep=self._keep,
            tell=self._tell,
            entries=self._entries,
            tasks=tasks,
        )
        for name in wanted:
            self.process_group.take(ProcessSpec(f"speculator.{name}", ("x",)))
        self.process_group.story.clear()
        self.free = 1 << 40
        self.looks_left = 0
        self.full_at: Collection[int] = ()
        self.found = Path("found.gguf")

    def _keep(self, settings: Settings) -> None:
        if len(self.kept) in self.full_at:
            raise TwdError(FailureCode.MODEL_LOAD, "the disk is full")
        self.kept.append(settings)

    async def _entries(self) -> list[LeaseEntry]:
        self.looks_left -= 1
        facts = msgspec.structs.replace(
            machine(DESK),
            memory=MemoryFacts(total=self.free, available=self.free),
            models=[ModelFile(name="found", path=str(self.found), size_bytes=1)] if self.looks_left < 0 else [],
            looking=self.looks_left >= 0,
        )
        return [LeaseEntry(node_key(facts.node), msgspec.json.encode(facts), 1, 0.0)]

    def _tell(self, told: ChangeTold) -> None:
        self.told.append(told)
        self.process_group.story.append(f"{told.step} {told.default}")

    async def change(self, wish: Wish) -> ChangeTold | None:
        """Begin, and wait for the end; None when there was nothing to do."""
        before = len(self.told)
        answer = await self.life.begin(wish)
        if not answer.change:
            return None
        ends = (ChangeStep.DONE, ChangeStep.FAILED)
        await until(lambda: len(self.told) > before and self.told[-1].step in ends, "the change has ended")
        return self.told[-1]


def as_crew(process_group: object) -> ProcessGroup:
    assert isinstance(process_group, FakeCrew)
    return process_group  # type: ignore[return-value]


@asynccontextmanager
async def house(settings: Settings, *wanted: str) -> AsyncIterator[House]:
    def fault(name: str, error: BaseException) -> None:
        raise AssertionError(f"{name}: {error!r}")

    tasks = TaskGroup("test", fault)
    try:
        yield House(settings, wanted, tasks)
    finally:
        await tasks.close()


def swap(model: str, instead_of: str = "") -> SwapWanted:
    return SwapWanted(id=EventId("c1"), node=DESK, model=model, instead_of=instead_of)


def wanted(model: str) -> ModelWanted:
    return ModelWanted(id=EventId("c1"), node=DESK, model=model)
