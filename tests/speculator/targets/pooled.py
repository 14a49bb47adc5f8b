"""A model over three machines for tests: what was decided, and what the machines tell of themselves."""

import msgspec

from tests.coordinator.machines import machine
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.node import NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided, Slice

DESK, ATTIC, CELLAR = NodeId("desk"), NodeId("attic"), NodeId("cellar")
WORKER = "rpc.pool.m"


def piece(node: NodeId, first: int, end: int, head: bool = False) -> Slice:
    return Slice(node=node, device="CPU", first=first, end=end, head=head, process="" if node == DESK else WORKER)


def decided(*slices: Slice, **fields: object) -> PlacementDecided:
    given = {"model": ModelId("m"), "coordinator": InstanceId("c"), "home": DESK, "engine": "rpc", **fields}
    return PlacementDecided(**given, slices=list(slices))  # type: ignore[arg-type]


BOTH = decided(piece(DESK, 0, 2, head=True), piece(ATTIC, 2, 10), piece(CELLAR, 10, 20), links={"attic": 2.0})


def with_worker(node: str, state: str = "ready", pid: int = 7, port: int = 5001) -> NodeFacts:
    process = ProcessFacts(
        process=WORKER, kind=ProcessKind.RPC, state=state, pid=pid, host="127.0.0.1", port=port, note="why"
    )
    return msgspec.structs.replace(machine(node), processes=[process])


def there(*facts: NodeFacts) -> dict[NodeId, NodeFacts]:
    return {one.node: one for one in facts}
