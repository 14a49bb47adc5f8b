"""What is asked for, what is there, and what may be done next: the values that the coordinator's mind works with."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from twd.coordinator.core.drafters import WantedDrafter
from twd.coordinator.core.machines.agentless_hosts import WorkerKey
from twd.coordinator.core.machines.device_names import can_compute
from twd.coordinator.core.machines.devices import rpc_version
from twd.coordinator.core.measured import Paces
from twd.coordinator.core.placement import MachineLink
from twd.coordinator.core.processes import WantedModel
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import READY, NodeFacts, ProcessUnwanted, ProcessWanted
from twd.wire.placement import PlacementDecided


@dataclass(frozen=True, slots=True)
class WantedState:
    """What the settings ask for."""

    home: NodeId
    coordinator: InstanceId
    pool: PoolConfig
    models: tuple[WantedModel, ...] = ()
    drafters: tuple[WantedDrafter, ...] = ()


@dataclass(slots=True)
class ObservedState:
    """What is there now, and what was decided and tried so far."""

    nodes: Mapping[NodeId, NodeFacts] = field(default_factory=dict)
    links: Mapping[str, MachineLink] = field(default_factory=dict)
    served: Collection[str] = ()
    """Models that are loaded."""
    homes: Mapping[str, NodeId] = field(default_factory=dict)
    """Where the process that serves a model is, by its own word; without one it is expected beside the coordinator."""
    decided: dict[str, PlacementDecided] = field(default_factory=dict)
    changed_at: dict[str, float] = field(default_factory=dict)
    """When each model went elsewhere last."""
    ready_at: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """When each process was seen ready first."""
    basis: dict[str, str] = field(default_factory=dict)
    """What each decision rested on: it is made anew only when that changes."""
    tried: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """When a machine was asked last for a process."""
    held: Mapping[WorkerKey, str] = field(default_factory=dict)
    """Workers of guests, each with the place whose speculator holds it."""
    paces: Paces = field(default_factory=dict)
    """What devices were measured to do."""
    _machines: tuple[Mapping[NodeId, NodeFacts], dict[bool, str]] | None = None

    def looked(self, now: float) -> None:
        """Remember which processes are ready, or were so before something befell them."""
        seen = ((facts.node, process) for facts in self.nodes.values() for process in facts.processes)
        self.ready_at = {
            key: self.ready_at.get(key, now)
            for node, process in seen
            if (key := (node, process.process)) in self.ready_at or process.state == READY
        }

    def machines(self, by_free: bool) -> str:
        """What of all machines a decision rests on: whether they are of use, their memory, and what of it is free where
        that counts."""
        if self._machines is None or self._machines[0] is not self.nodes:
            self._machines = (self.nodes, {})
        known = self._machines[1]
        if by_free not in known:
            known[by_free] = repr(sorted(_machine(facts, by_free) for facts in self.nodes.values()))
        return known[by_free]


@dataclass(frozen=True, slots=True)
class DecidePlacement:
    """Tell everybody where a model goes."""

    decision: PlacementDecided
    basis: str


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Ask a machine for a process."""

    wish: ProcessWanted


@dataclass(frozen=True, slots=True)
class StopProcess:
    """Ask a machine to end one."""

    wish: ProcessUnwanted


Action = DecidePlacement | StartProcess | StopProcess


def _machine(facts: NodeFacts, by_free: bool) -> tuple[object, ...]:
    return (
        facts.node,
        facts.machine,
        facts.lends,
        rpc_version(facts),
        facts.memory.total,
        _steps(facts.memory.available) if by_free else 0,
        [(gpu.name, gpu.total, can_compute(facts, gpu), _steps(gpu.free) if by_free else 0) for gpu in facts.gpus],
    )


def _steps(free: int) -> int:
    return free // (512 * 1024**2)
