"""The values that the coordinator's planning works with: what is wanted, what is observed, and the possible actions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from twd.coordinator.core.drafters import WantedDrafter
from twd.coordinator.core.machines.agentless_hosts import WorkerKey
from twd.coordinator.core.machines.device_names import can_compute
from twd.coordinator.core.machines.devices import rpc_version
from twd.coordinator.core.measured import Paces
from twd.coordinator.core.placement.values import MachineLink
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.stores import Stores
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import READY, NodeFacts, ProcessUnwanted, ProcessWanted
from twd.wire.placement import PlacementDecided
from twd.wire.swarm import PullUnwanted, PullWanted


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
    """The machine whose process serves each model, by its lease; without one, the coordinator's machine is assumed."""
    decided: dict[str, PlacementDecided] = field(default_factory=dict)
    changed_at: dict[str, float] = field(default_factory=dict)
    """When each model's placement last changed."""
    ready_at: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """When each process was first seen ready."""
    basis: dict[str, str] = field(default_factory=dict)
    """The hash of each decision's inputs: it is made again only when that changes."""
    tried: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """When a machine was last asked to start or stop a process."""
    held: Mapping[WorkerKey, str] = field(default_factory=dict)
    """Workers of agentless hosts, each with the place of the model whose speculator holds it."""
    paces: Paces = field(default_factory=dict)
    """Measured speeds of devices."""
    stores: Stores = field(default_factory=dict)
    """What machines keep of models besides whole files."""
    storeless_since: dict[NodeId, float] = field(default_factory=dict)
    """Since when machines are seen without a swarm service."""
    aims: dict[str, "Aim"] = field(default_factory=dict)
    """The placement that each model shall have once layers were fetched."""
    _machines: tuple[Mapping[NodeId, NodeFacts], dict[bool, str]] | None = None

    def looked(self, now: float) -> None:
        """Remember since when processes are ready, also those that were ready and failed since."""
        seen = ((facts.node, process) for facts in self.nodes.values() for process in facts.processes)
        self.ready_at = {
            key: self.ready_at.get(key, now)
            for node, process in seen
            if (key := (node, process.process)) in self.ready_at or process.state == READY
        }
        without = self.nodes.keys() - self.stores.keys()
        self.storeless_since = {node: self.storeless_since.get(node, now) for node in without}

    def machines(self, by_free: bool) -> str:
        """Return the facts of all machines that a decision depends on: usability, total memory, and with `by_free` free
        memory in coarse steps."""
        if self._machines is None or self._machines[0] is not self.nodes:
            self._machines = (self.nodes, {})
        known = self._machines[1]
        if by_free not in known:
            known[by_free] = repr(sorted(_machine(facts, by_free) for facts in self.nodes.values()))
        return known[by_free]


@dataclass(frozen=True, slots=True)
class DecidePlacement:
    """Publish where a model is placed."""

    decision: PlacementDecided
    basis: str


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Ask a machine to start a process."""

    wish: ProcessWanted


@dataclass(frozen=True, slots=True)
class StopProcess:
    """Ask a machine to stop a process."""

    wish: ProcessUnwanted


@dataclass(frozen=True, slots=True)
class Aim:
    """The best placement with machines that fetch layers; None where none of them is needed."""

    decision: PlacementDecided | None
    basis: str
    """A hash of what it depends on: it is made again only when that changes."""


@dataclass(frozen=True, slots=True)
class SetAim:
    """Remember where a model shall go."""

    place: str
    aim: Aim


@dataclass(frozen=True, slots=True)
class StartPull:
    """Ask a machine to fetch layers."""

    wish: PullWanted


@dataclass(frozen=True, slots=True)
class StopPull:
    """Ask a machine to stop a fetch."""

    wish: PullUnwanted


Action = DecidePlacement | StartProcess | StopProcess | SetAim | StartPull | StopPull


def _machine(facts: NodeFacts, by_free: bool) -> tuple[object, ...]:
    return (
        facts.node,
        facts.machine,
        facts.lends,
        facts.accepts,
        rpc_version(facts),
        facts.memory.total,
        _steps(facts.memory.available) if by_free else 0,
        [(gpu.name, gpu.total, can_compute(facts, gpu), _steps(gpu.free) if by_free else 0) for gpu in facts.gpus],
    )


def _steps(free: int) -> int:
    return free // (512 * 1024**2)
