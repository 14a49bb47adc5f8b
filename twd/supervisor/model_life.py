"""Changes which models an installation serves: one change at a time, reported step by step, undone when it fails."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from twd.bus.base import LeaseEntry
from twd.kit.clock import Clock
from twd.kit.tasks import TaskGroup, heard
from twd.process.process_table import DONE, ProcessRow, ProcessTable, StartPhase
from twd.process.supervisor import ProcessSpec
from twd.settings.model import ModelConfig, Settings
from twd.supervisor.model_changes import (
    ReplacementOrder,
    ServedModels,
    find_model,
    manner_of,
    served_name,
    skipping_version_check,
    with_head,
    with_served,
)
from twd.supervisor.process_group import ProcessGroup
from twd.supervisor.processes import serving_processes, wanted_processes
from twd.supervisor.service import Wish
from twd.wire.base import ModelId, NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.base import WorkerFacts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.life import ChangeAnswered, ChangeStep, ChangeTold, ModelUnwanted, ModelWanted, SwapWanted
from twd.wire.node import ModelFile, read_node

START_S: Final = 1800.0
"""Seconds that a model may take to load."""
IDLE_S: Final = 300.0
"""Seconds that the jobs of a leaving model may take."""
LOOK_S: Final = 0.5
LOOKING_S: Final = 8.0
"""Seconds to wait for agents that still detect their machines, before a change is planned."""
STALLED_S: Final = 300.0
"""A loading model whose notes stay the same for so many seconds counts as failed."""
CRASHES_MAX: Final = 3
COORDINATOR: Final = "coordinator"


@dataclass(frozen=True, slots=True)
class ModelChange:
    """The planned change that carries out one request."""

    before: ServedModels
    after: ServedModels
    model: str
    """The model that the request is about."""
    starts: str = ""
    stops: tuple[str, ...] = ()
    manner: ReplacementOrder = ReplacementOrder.BESIDE
    arguments: tuple[str, ...] = ()
    """Additional command-line arguments of the process that starts."""


class ModelLife:
    """Starts, stops and replaces the processes that serve models."""

    def __init__(
        self,
        process_group: ProcessGroup,
        table: ProcessTable,
        serving: ServedModels,
        *,
        node: NodeId,
        clock: Clock,
        keep: Callable[[Settings], None],
        tell: Callable[[ChangeTold], None],
        entries: Callable[[], Awaitable[list[LeaseEntry]]],
        tasks: TaskGroup,
    ) -> None:
        """`keep` stores the settings for processes that start from now on; may raise TwdError. `entries` reads the
        registry."""
        self.serving = serving
        self.news = asyncio.Event()
        """Set by whoever sees the process table change."""
        self._process_group = process_group
        self._table = table
        self._node = node
        self._clock = clock
        self._keep = keep
        self._tell_all = tell
        self._entries = entries
        self._tasks = tasks
        self._under_way = ""
        self.changed = False
        """Whether other models are served than the settings said."""

    @property
    def models(self) -> list[str]:
        """Names of the models that are served, or are loading."""
        return list(self.serving.wanted)

    @property
    def default(self) -> str:
        """The name of the model that requests for `default` get."""
        return self.serving.default

    def learn(self, models: dict[str, ModelConfig]) -> None:
        """From now on these entries count; models that are served go on as they are."""
        known = {**self.serving.settings.models, **models}
        settings = msgspec.structs.replace(self.serving.settings, models=known)
        self.serving = replace(self.serving, settings=with_served(settings, self.serving.wanted))

    async def begin(self, wish: Wish) -> ChangeAnswered:
        """Check a request and begin to carry it out; raises TwdError where that is not possible."""
        if self._under_way:
            raise TwdError(FailureCode.BUSY, f"another change is under way: {self._under_way}; wait for its end")
        self._under_way = type(wish).__name__
        try:
            change = await self._plan(wish)
        except BaseException:
            self._under_way = ""
            raise
        if not change.starts and not change.stops:
            self._under_way = ""
            note = f"{change.model} is served already" if change.model else "no model is served"
            return ChangeAnswered(node=self._node, model=ModelId(change.model), note=note)
        self._under_way = _words(change)
        self._tasks.start(f"change {wish.id}", self._carry_out(change, wish.id))
        return ChangeAnswered(node=self._node, change=wish.id, model=ModelId(change.model), note=self._under_way)

    # -- plans ---------------------------------------------------------------------------------

    async def _plan(self, wish: Wish) -> ModelChange:
        if isinstance(wish, ModelUnwanted):
            return self._plan_stop(wish, self._files(await self._entries()))
        entries = await self._known()
        files = self._files(entries)
        settings, name = find_model(self.serving.settings, files, wish.model)
        if isinstance(wish, ModelWanted) and wish.skip_version_check:
            settings = skipping_version_check(settings)
        if isinstance(wish, ModelWanted) and wish.head:
            settings = with_head(settings, wish.head, name)
        known = replace(self.serving, settings=settings)
        old = self._replaced(wish, files) if isinstance(wish, SwapWanted) else ""
        if name == old or (name in self.serving.wanted and not old):
            return ModelChange(self.serving, self.serving, name)
        default = name if old and old == self.serving.default else ""
        after = known.with_model(name, default).without([old] if old else [])
        change = ModelChange(self.serving, after, name, stops=(old,) if old else ())
        if name in self.serving.wanted:
            return change
        from twd.supervisor.memory_check import (
            check_file,  # reading model files takes libraries that few supervisors ever need
        )

        await asyncio.to_thread(check_file, settings, name)
        change = replace(change, starts=name, arguments=_arguments(wish))
        return replace(change, manner=await self._manner(change, entries))

    async def _known(self) -> list[LeaseEntry]:
        """Return the registry's entries. Waits up to LOOKING_S for agents that still detect their machine: until then
        it seems to have no resources."""
        give_up = self._clock.now() + LOOKING_S
        entries = await self._entries()
        while (
            any((facts := read_node(one.value, one.key)) and facts.looking for one in entries)
            and self._clock.now() < give_up
        ):
            await self._wait()
            entries = await self._entries()
        return entries

    def _files(self, entries: Sequence[LeaseEntry]) -> list[ModelFile]:
        """Return the model files that the agent of this machine found."""
        here = [facts for entry in entries if (facts := read_node(entry.value, entry.key)) and facts.node == self._node]
        return [file for facts in here for file in facts.models]

    def _plan_stop(self, wish: ModelUnwanted, files: Sequence[ModelFile]) -> ModelChange:
        names = self.serving.wanted if not wish.model else (self._served(wish.model, files),)
        return ModelChange(self.serving, self.serving.without(names), ", ".join(names), stops=names)

    def _replaced(self, wish: SwapWanted, files: Sequence[ModelFile]) -> str:
        return self._served(wish.instead_of, files) if wish.instead_of else self.serving.default

    def _served(self, name: str, files: Sequence[ModelFile]) -> str:
        found = served_name(self.serving, files, name)
        if not found:
            served = ", ".join(self.serving.wanted) or "none"
            text = f"{name[:200]!r} is not served on this machine; served are: {served}"
            raise TwdError(FailureCode.MODEL_NOT_FOUND, text, "model")
        return found

    async def _manner(self, change: ModelChange, entries: Sequence[LeaseEntry]) -> ReplacementOrder:
        manner = await asyncio.to_thread(self._choose_manner, change, entries)
        beside = [name for name in change.before.wanted if name in change.before.settings.models]
        if manner is ReplacementOrder.AFTER and beside and not change.stops:
            text = f"there is no room for {change.starts} beside {', '.join(beside)}"
            raise TwdError(FailureCode.OUT_OF_MEMORY, f"{text}; `twd swap` puts it in the place of one", "model")
        return manner

    def _choose_manner(self, change: ModelChange, entries: Sequence[LeaseEntry]) -> ReplacementOrder:
        from twd.coordinator.links import LinkTable
        from twd.supervisor.memory_check import pool_manner, room_for
        from twd.supervisor.pool_registry import nodes_of, observed_of

        settings, machines = change.after.settings, nodes_of(entries)
        if settings.pooled and change.starts in settings.models:
            seen = observed_of(entries, machines, LinkTable(), self._node)
            return pool_manner(settings, change.starts, change.before.wanted, change.stops, self._node, seen)
        pids = self._process_group.pids(
            [spec.name for name in change.stops for spec in self._specs(change.before, name)]
        )
        return manner_of(room_for(settings, change.starts, pids, self._node, machines))

    def _specs(self, serving: ServedModels, name: str) -> list[ProcessSpec]:
        return serving_processes(serving.settings, name)

    # -- carrying out --------------------------------------------------------------------------

    async def _carry_out(self, change: ModelChange, name: str) -> None:
        try:
            await self._turn(change, name)
            self._tell(name, ChangeStep.DONE, change.model, _words(change, done=True))
        except TwdError as error:
            await self._take_back(change, name, error)
        except Exception as error:  # a bug of ours: undo the change, then report the bug
            await self._take_back(change, name, TwdError(FailureCode.INTERNAL, f"a fault: {error!r}"))
            raise
        finally:
            self._under_way = ""

    async def _turn(self, change: ModelChange, name: str) -> None:
        if change.starts and change.manner is ReplacementOrder.BESIDE:
            await self._set(change.before.beside(change.after, change.starts))
            await self._load(change, name)
        await self._set(change.after)
        if change.stops:
            ending = "it finishes its jobs" if len(change.stops) == 1 else "they finish their jobs"
            self._tell(name, ChangeStep.DRAINING, ", ".join(change.stops), ending)
            await self._drain(change)
        if change.starts and change.manner is ReplacementOrder.AFTER:
            await self._load(change, name)

    async def _load(self, change: ModelChange, name: str) -> None:
        self._tell(name, ChangeStep.LOADING, change.starts, _words(change))
        specs = self._specs(self.serving, change.starts)
        for spec in specs:
            more = change.arguments if spec.name.startswith("speculator.") else ()
            self._process_group.take(replace(spec, argv=(*spec.argv, *more)))
        await self._until_ready(change.starts, [spec.name for spec in specs if not spec.name.startswith("drafter.")])

    async def _until_ready(self, model: str, names: Sequence[str]) -> None:
        give_up = self._clock.now() + START_S
        said, since = "", self._clock.now()
        while not all(self._row(name).stage in DONE for name in names):
            for name in names:
                self._check(model, self._row(name))
            now, notes = self._clock.now(), "; ".join(self._row(name).note for name in names if self._row(name).note)
            said, since = (said, since) if notes == said else (notes, now)
            if now > min(give_up, since + STALLED_S):
                text = f"{model} is not ready after {START_S:g} s, or got no further for {STALLED_S:g} s: {said}"
                raise TwdError(FailureCode.MODEL_LOAD, text, "model")
            await self._wait()

    def _row(self, name: str) -> ProcessRow:
        return self._table.rows.get(name) or ProcessRow(name=name)

    @staticmethod
    def _check(model: str, row: ProcessRow) -> None:
        if row.stage in (StartPhase.FAILED, StartPhase.MISSING) or row.restarts >= CRASHES_MAX:
            raise TwdError(FailureCode.MODEL_LOAD, f"{model} cannot be served: {row.note or row.stage}", "model")

    async def _wait(self) -> None:
        self.news.clear()
        await heard(self.news, LOOK_S)

    async def _drain(self, change: ModelChange) -> None:
        """Wait until the leaving models have finished their jobs, IDLE_S at most, then end them; new jobs already go
        elsewhere."""
        specs = [spec for name in change.stops for spec in self._specs(change.before, name)]
        give_up = self._clock.now() + IDLE_S
        while self._busy([spec.name for spec in specs]) and self._clock.now() < give_up:
            await self._wait()
        await self._process_group.end([spec.name for spec in specs])

    def _busy(self, names: Sequence[str]) -> bool:
        facts = [self._row(name).facts for name in names]
        waiting = any(isinstance(one, SpeculatorFacts) and one.waiting for one in facts)
        return waiting or any(isinstance(one, WorkerFacts) and one.sessions for one in facts)

    async def _take_back(self, change: ModelChange, name: str, error: TwdError) -> None:
        """Undo a failed change: the models that served before serve again."""
        await self._process_group.end([spec.name for spec in self._specs(change.after, change.starts)])
        with contextlib.suppress(TwdError):  # the same `error` again: the settings are written again later
            await self._set(change.before)
        gone = [model for model in change.stops if not self._runs(model)]
        note = f"{', '.join(change.before.wanted) or 'no model'} serves as before"
        if gone:
            self._tell(name, ChangeStep.ROLLING_BACK, change.model, f"{error}; back to {', '.join(gone)}")
            note = await self._bring_back(gone)
        self._tell_all(self._told(name, ChangeStep.FAILED, change.model, note, error))

    def _runs(self, model: str) -> bool:
        return all(spec.name in self._table.rows for spec in self._specs(self.serving, model))

    async def _bring_back(self, models: Sequence[str]) -> str:
        specs = [spec for model in models for spec in self._specs(self.serving, model)]
        for spec in specs:
            self._process_group.take(spec)
        try:
            await self._until_ready(", ".join(models), [s.name for s in specs if not s.name.startswith("drafter.")])
        except TwdError as error:
            return f"and the old one does not come back: {error}"
        return f"{', '.join(models)} serves again"

    # -- telling -------------------------------------------------------------------------------

    async def _set(self, serving: ServedModels) -> None:
        before, self.serving = self.serving, serving
        self.changed = True
        self._keep(serving.settings)
        if serving.settings.models != before.settings.models:
            await self._renew_coordinator()

    async def _renew_coordinator(self) -> None:
        """Restart the coordinator, which plans for the models of its settings; the new one reads the decisions from the
        registry."""
        planners = wanted_processes(self.serving.settings, (COORDINATOR,))
        running = [spec for spec in planners if spec.name in self._table.rows]
        await self._process_group.end([spec.name for spec in running])
        for spec in running:
            self._process_group.take(spec)

    def _tell(self, name: str, step: ChangeStep, model: str, note: str) -> None:
        self._tell_all(self._told(name, step, model, note))

    def _told(self, name: str, step: ChangeStep, model: str, note: str, error: TwdError | None = None) -> ChangeTold:
        return ChangeTold(
            node=self._node,
            change=name,
            step=step,
            model=ModelId(model),
            note=note,
            models=self.models,
            default=self.default,
            failure=error.failure if error is not None else None,
        )


def _arguments(wish: ModelWanted | SwapWanted) -> tuple[str, ...]:
    if isinstance(wish, SwapWanted):
        return ()
    reclaim = ("--ram-reclaim", wish.ram_reclaim) if wish.ram_reclaim else ()
    return (*reclaim, *(() if wish.prewarm else ("--no-prewarm",)))


def _words(change: ModelChange, done: bool = False) -> str:
    gone = ", ".join(change.stops)
    if not change.starts:
        taking_over = change.after.default != change.before.default and bool(change.after.default)
        over = f"; {change.after.default} is the default" if taking_over else ""
        one = len(change.stops) == 1
        if done:
            return f"{gone} {'is' if one else 'are'} gone{over}"
        return f"{gone} {'ends' if one else 'end'}{over}"
    if done:
        return f"{change.starts} serves" + (f" instead of {gone}" if gone else "")
    if not gone:
        return f"{change.starts} loads"
    how = (
        f"beside {gone}, which serves until then"
        if change.manner is ReplacementOrder.BESIDE
        else f"after {gone} has ended"
    )
    return f"{change.starts} loads {how}"
