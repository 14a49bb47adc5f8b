"""A world of a few nodes from one seed: services on a faulty bus, in virtual time.

`run_world(plan)` plays it to the end and raises `WorldBroken` with the story when an invariant
does not hold. The same plan gives the same world, event by event.
"""

import asyncio
import contextlib
import gc
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.sim.doubles import FakeDrafter, FakeSpeculator
from tests.sim.edges import Diary, Edge, Submitter
from tests.sim.hostile import HostileDrafter
from tests.sim.invariants import INVARIANTS, Witness, unsettled
from tests.sim.plan import BrokerDown, CutOff, Drain, Fault, Kill, Noise, Partition, Pause, Plan, PlannedJob, PowerCut
from tests.sim.units import Keeper, ServiceFactory, Unit
from tests.sim.virtual_loop import Deadlock, Livelock, VirtualLoop
from twd.bus.memory.bus import MemoryBroker, MemoryBus
from twd.wire.base import JobId, ModelId
from twd.wire.job import JobSubmitted, Prompt, Sampling

SETTLE_S = 90
CLOSE_S = 30
PROBE_DEADLINE_S = 30.0
COLLECT_EVERY = 5
MODEL = ModelId("m")
DOUBLES: Mapping[str, ServiceFactory] = {
    "edge": Submitter,
    "speculator": FakeSpeculator,
    "drafter": FakeDrafter,
    "hostile": HostileDrafter,
}


class WorldBroken(AssertionError):
    """An invariant did not hold; the message has the seed and the story."""


@dataclass
class World:
    """Everything that exists while one plan is played."""

    plan: Plan
    services: Mapping[str, ServiceFactory] = field(default_factory=lambda: DOUBLES)

    def __post_init__(self) -> None:
        self.loop = VirtualLoop()
        self.broker = MemoryBroker(self.plan.seed)
        self.witness = Witness(self.loop.time)
        self.broker.observers.append(self.witness.see)
        self.units: dict[str, Unit] = {}
        self.keepers: dict[str, Keeper] = {}
        self.diaries: list[Diary] = []
        self.probes: list[Diary] = []
        self.settled = False
        self.unsettled: list[str] = []
        self._dice = random.Random(f"world {self.plan.seed}")
        self._pids = 0
        self._noises: list[Noise] = []
        self._away: Counter[str] = Counter()
        self.loop.thread_s = lambda: self._dice.choice((0.001, 0.01, 0.01, 0.1, 1.0))

    def next_pid(self) -> int:
        """A process id that was never used."""
        self._pids += 1
        return self._pids

    def note_death(self, unit: Unit) -> None:
        """Jobs of a dead owner wait for nothing any more."""
        if isinstance(unit.service, Edge):
            for diary in unit.service.diaries.values():
                diary.orphaned = not diary.ends

    # -- the play ------------------------------------------------------------------------------

    def play(self) -> list[str]:
        """Run to the end; returns what is wrong."""
        try:
            self.loop.run_until_complete(self._story())
        except (Deadlock, Livelock) as error:
            return [f"{type(error).__name__}: {error}"]
        finally:
            wrong = [f"{invariant.__name__}: {fault}" for invariant in INVARIANTS for fault in invariant(self)]
            self.loop.close()
        return wrong

    async def _story(self) -> None:
        self.units = {name: self._unit(name, node) for name, node in self.plan.units.items()}
        for node in self.plan.nodes:
            self._boot(node)
        for job in self.plan.jobs:
            self.loop.call_at(job.at, self._submit_planned, job)
        for fault in self.plan.faults:
            self.loop.call_at(fault.at, self._strike, fault)
        last = max([self.plan.faults_end, *(job.at for job in self.plan.jobs)])
        await asyncio.sleep(last + 0.1)
        self.settled = await self._settle() and await self._probe()
        await self._close()

    def _unit(self, name: str, node: str) -> Unit:
        return Unit(self, name, node, self.services[name.split("-", 1)[0]])

    def _boot(self, node: str) -> None:
        self.keepers[node] = Keeper(self, node, [unit for unit in self.units.values() if unit.node == node])

    async def _settle(self) -> bool:
        for _ in range(SETTLE_S):
            self.unsettled = unsettled(self)
            if not self.unsettled:
                return True
            await asyncio.sleep(1.0)
        return False

    async def _probe(self) -> bool:
        """After the faults a job must simply work."""
        for name in self.units:
            if name.startswith("edge"):
                job = PlannedJob(self.loop.time(), name, "probe", 1, 8, PROBE_DEADLINE_S)
                diary = self._submit(job)
                if diary is not None:
                    self.probes.append(diary)
        return await self._settle()

    async def _close(self) -> None:
        for keeper in self.keepers.values():
            keeper.close()
        for unit in self.units.values():
            if unit.alive:
                with contextlib.suppress(TimeoutError):  # what did not end is told by `nothing_is_left`
                    await asyncio.wait_for(unit.ended.wait(), CLOSE_S)
        await asyncio.sleep(0.1)

    # -- jobs ----------------------------------------------------------------------------------

    def _submit_planned(self, planned: PlannedJob) -> None:
        diary = self._submit(planned)
        if diary is not None and planned.cancel_at is not None:
            self.loop.call_at(planned.cancel_at, self._cancel, planned.edge, diary.job.job)

    def _submit(self, planned: PlannedJob) -> Diary | None:
        """Hand a job to an edge; a client that finds the edge down or stopped goes away."""
        unit = self.units[planned.edge]
        if not isinstance(unit.service, Edge) or unit.process is None or not self._answers(unit):
            return None
        job = JobSubmitted(
            job=JobId(f"job{len(self.diaries)}"),
            model=MODEL,
            owner=unit.service.instance,
            prompt=Prompt(text=planned.prompt),
            sampling=Sampling(seed=planned.seed),
            max_tokens=planned.max_tokens,
            deadline_ms=int(planned.deadline_s * 1000),
        )
        diary = Diary(job, self.loop.time(), unit.name)
        self.diaries.append(diary)
        self.loop.call_soon(unit.service.submit, diary, context=unit.process.context)
        return diary

    def _cancel(self, edge: str, job: JobId) -> None:
        unit = self.units[edge]
        if isinstance(unit.service, Edge) and unit.process is not None and self._answers(unit):
            self.loop.call_soon(unit.service.cancel, job, context=unit.process.context)

    def _answers(self, unit: Unit) -> bool:
        service, process = unit.service, unit.process
        running = service is not None and service.health.value == "ok" and not service.ended.is_set()
        return running and unit.alive and process is not None and process.parked is None

    # -- faults --------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        match fault:
            case Kill(_, unit):
                self.units[unit].kill()
            case Pause(_, unit, for_s):
                self.units[unit].pause(for_s)
            case Drain(_, unit):
                self.units[unit].drain()
            case PowerCut(_, node, for_s):
                self._power_cut(node, for_s)
            case Partition(_, (one, other), for_s):
                pair = frozenset((one, other))
                self.broker.faults.cut.add(pair)
                self.loop.call_later(for_s, self.broker.faults.cut.discard, pair)
            case CutOff(_, node, for_s):
                self._cut_off([node], True)
                self.loop.call_later(for_s, self._cut_off, [node], False)
            case BrokerDown(_, for_s):
                self._cut_off(self.plan.nodes, True)
                self.loop.call_later(for_s, self._cut_off, self.plan.nodes, False)
            case Noise():
                self._noises.append(fault)
                self._set_noise()
                self.loop.call_later(fault.for_s, self._hush, fault)

    def _power_cut(self, node: str, for_s: float) -> None:
        keeper = self.keepers.pop(node, None)
        if keeper is not None:
            keeper.kill()
            self.loop.call_later(for_s, self._boot, node)

    def _cut_off(self, nodes: list[str], away: bool) -> None:
        for node in nodes:
            self._away[node] += 1 if away else -1
        for client in self.broker.clients:
            client.cut_off = self._away[client.node] > 0

    def connect(self, node: str) -> MemoryBus:
        """A new client; where the bus is away it starts without."""
        client = self.broker.connect(node)
        client.cut_off = self._away[node] > 0
        return client

    def _hush(self, noise: Noise) -> None:
        self._noises.remove(noise)
        self._set_noise()

    def _set_noise(self) -> None:
        faults, noises = self.broker.faults, self._noises
        faults.drop = max((noise.drop for noise in noises), default=0.0)
        faults.repeat = max((noise.repeat for noise in noises), default=0.0)
        faults.reorder = max((noise.reorder for noise in noises), default=0.0)
        faults.delay_s = (0.0, max((noise.delay_s for noise in noises), default=0.0))


def run_world(plan: Plan, services: Mapping[str, ServiceFactory] | None = None) -> World:
    """Play one plan; raises WorldBroken when something is wrong."""
    world = World(plan, services or DOUBLES)
    wrong = world.play()
    if wrong:
        raise WorldBroken(world.witness.story(plan, wrong))
    return world


def play_many(seeds: Iterable[int], play: Callable[[int], object]) -> None:
    """Worlds leave cycles behind: looked for every few worlds, among what is new, they cost less than all the time."""
    gc.disable()
    gc.freeze()
    try:
        for count, seed in enumerate(seeds, 1):
            play(seed)
            if count % COLLECT_EVERY == 0:
                gc.collect()
        gc.collect()
    finally:
        gc.unfreeze()
        gc.enable()
