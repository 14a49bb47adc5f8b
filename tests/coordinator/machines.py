"""Machines and wishes for tests of the coordinator."""

from twd.coordinator.core.placement.values import ModelShape
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.state import ObservedState, WantedState
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import CpuFacts, GpuFacts, MemoryFacts, NodeFacts, ProcessFacts, ProcessKind

GIB = 1024**3
DESK = NodeId("desk")
SHAPE = ModelShape("big", (GIB,) * 20, GIB // 4, GIB // 4, 4096, 32_000, 4096, 8192)
RPC = PoolConfig(engine="rpc", trusted_lan=True)


def machine(name: str, ram: float = 8, gpu: float = 0, processes: tuple[str, ...] = ()) -> NodeFacts:
    """One with so much memory free."""
    return NodeFacts(
        node=NodeId(name),
        instance=InstanceId(f"agent.{name}.x"),
        machine=name,
        pid=1,
        lends=True,
        hostname=name,
        cpu=CpuFacts(bandwidth=int(20e9)),
        memory=MemoryFacts(total=int(ram * GIB), available=int(ram * GIB)),
        gpus=[GpuFacts(name="g", backend="cuda", total=int(gpu * GIB), free=int(gpu * GIB))] if gpu else [],
        processes=[ProcessFacts(process=process, kind=ProcessKind.RPC, state="ready") for process in processes],
    )


def wanting(pool: PoolConfig = RPC, shape: ModelShape | None = SHAPE) -> WantedState:
    """One model over the pool."""
    model = WantedModel("big", 4096, 1, shape, "" if shape else "the file is gone")
    return WantedState(DESK, InstanceId("coordinator.desk.x"), pool, (model,))


def seeing(*nodes: NodeFacts) -> ObservedState:
    """What is there."""
    return ObservedState(nodes={facts.node: facts for facts in nodes})
