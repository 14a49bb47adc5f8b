"""The stages of a pooled model: which ones make its ring, and when another decision or a spare is better."""

import msgspec
import pytest

from tests.coordinator.machines import machine
from tests.speculator.targets.pooled import ATTIC, CELLAR, decided, piece, there
from twd.bus.base import Leases
from twd.bus.memory.bus import MemoryBroker
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.speculator.targets.pool_core import (
    PlacementHistory,
    assemble,
)
from twd.speculator.targets.pool_ring import PlacedStages
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.codec import encode
from twd.wire.failures import TwdError
from twd.wire.leases.workers import StageFacts
from twd.wire.node import NodeChanged, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided, Slice, placement_key
from twd.wire.ring import StageReady
from twd.wire.service import ServiceLease


def spared(name: str, state: str = "ready", pid: int = 7) -> NodeFacts:
    process = ProcessFacts(process="stage.0", kind=ProcessKind.STAGE, state=state, pid=pid, host="h", port=pid)
    return msgspec.structs.replace(machine(name), processes=[process])


def stage_on(name: str, pid: int = 7) -> StageReady:
    return StageReady(
        stage=InstanceId(f"stage.{name}.{pid}"), node=NodeId(name), model=ModelId("m"), file_hash="h", first=0, end=20,
        layers=20, head=True, host="here", port=1,
    )  # fmt: skip


async def placed_on(broker: MemoryBroker) -> PlacedStages:
    """What finds the stages of the model on this bus."""
    found = PlacedStages("m", 5.0)
    await found.open(broker.connect("desk"))
    return found


async def tell_stage(leases: Leases, node: NodeId, file: str = "h") -> None:
    """A machine and the stage on it, in the registry."""
    await leases.put(f"agent.{node}.claim", msgspec.json.encode(spared(node)))
    stage = msgspec.structs.replace(stage_on(node), file_hash=file)
    told = ServiceLease(
        service="stage", instance=InstanceId(f"stage.{node}.x"), node=node, pid=7, version="1", started_ms=1,
        renewed_ms=1, facts=StageFacts(slice=stage),
    )  # fmt: skip
    await leases.put(f"stage.{node}.x", msgspec.json.encode(told))


def test_a_spare_serves_while_its_original_does_not_and_then_goes_on() -> None:
    slices = [Slice(node=node, device="CPU", first=0, end=20, head=True, process="stage.0") for node in (ATTIC, CELLAR)]
    placement = decided(slices[0], spares=slices[1:], engine="ring")
    swapped = decided(slices[1], spares=slices[:1], engine="ring")
    stages = {(node, 7): stage_on(node) for node in (ATTIC, CELLAR)}
    both = there(spared("attic"), spared("cellar"))

    def chosen(nodes: dict[NodeId, NodeFacts], habit: PlacementHistory, of: PlacementDecided = placement) -> str:
        found = assemble(of, nodes, stages, habit)
        return found.members[0].slice.node if found.complete else "; ".join(found.waits_for)

    held, attic = PlacementHistory(held={(CELLAR, "stage.0")}), stages[ATTIC, 7].stage
    assert chosen(both, PlacementHistory()) == "attic"
    assert chosen(both | there(spared("attic", "starting", pid=8)), PlacementHistory()) == "cellar"
    assert chosen(there(spared("attic", "starting")), PlacementHistory()) == "attic", "its stage says that it is ready"
    assert chosen(there(spared("cellar")), PlacementHistory()) == "cellar"
    assert chosen(both, held) == "cellar", "what works is not left for what comes back"
    assert assemble(placement, both, stages, held).signature == assemble(swapped, both, stages, held).signature
    assert chosen(both, PlacementHistory(lost=[attic])) == "cellar"
    assert chosen(there(spared("attic")), PlacementHistory(lost=[attic])) == "attic", "perhaps it was the network"
    assert chosen(there(machine("attic")), held) == "attic's worker"
    assert chosen(both, held, decided(slices[0], engine="ring")) == "attic"


async def test_a_stage_that_could_not_be_reached_is_replaced_by_its_spare() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    slices = [Slice(node=node, device="CPU", first=0, end=20, head=True, process="stage.0") for node in (ATTIC, CELLAR)]
    await leases.put(placement_key("m"), encode(decided(slices[0], spares=slices[1:], engine="ring")))
    for node in (ATTIC, CELLAR):
        await tell_stage(leases, node)
    found = await placed_on(broker)
    (first,) = await found.stages("h")
    assert (first.node, first.host, first.port) == ("attic", "h", 7)
    found.lost(first.stage, "it does not answer")
    assert [stage.node for stage in await found.stages("h")] == ["cellar"]
    assert [stage.node for stage in await found.stages("h")] == ["cellar"], "and it stays there"


async def test_a_stage_that_was_reached_after_all_is_not_left_for_its_spare() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    slices = [Slice(node=node, device="CPU", first=0, end=20, head=True, process="stage.0") for node in (ATTIC, CELLAR)]
    await leases.put(placement_key("m"), encode(decided(slices[0], spares=slices[1:], engine="ring")))
    await tell_stage(leases, ATTIC)
    found = await placed_on(broker)
    (first,) = await found.stages("h")
    found.lost(first.stage, "no answer within 0.3 s")
    assert [stage.node for stage in await found.stages("h")] == ["attic"], "there is no other"
    found.reached([first])
    await tell_stage(leases, CELLAR)
    assert [stage.node for stage in await found.stages("h")] == ["attic"]


async def test_slices_of_another_file_are_no_ring() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    slices = [Slice(node=node, device="CPU", first=0, end=20, head=True, process="stage.0") for node in (ATTIC, CELLAR)]
    await leases.put(placement_key("m"), encode(decided(slices[0], spares=slices[1:], engine="ring")))
    for node, file in ((ATTIC, "other"), (CELLAR, "h")):
        await tell_stage(leases, node, file)
    found = await placed_on(broker)
    with pytest.raises(TwdError, match=r"was cut on attic \(other\); copy the model anew there"):
        await found.stages("h")
    assert [stage.node for stage in await found.stages("h")] == ["cellar"], "a spare of the right file"


async def test_news_of_other_models_and_machines_do_not_concern_a_ring() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    found = await placed_on(broker)
    changed = NodeChanged(node=CELLAR, facts=machine("cellar"))
    assert found.concerns(changed), "nothing is decided yet, so any machine may be one of the pool's"
    placement = decided(piece(ATTIC, 0, 20, head=True), engine="ring")
    await leases.put(placement_key("m"), encode(placement))
    assert not await found.better("h"), "its stages are not there"
    assert not found.concerns(changed)
    assert found.concerns(NodeChanged(node=ATTIC, facts=machine("attic")))
    assert found.concerns(placement)
    assert not found.concerns(msgspec.structs.replace(placement, model=ModelId("other")))
    assert not found.concerns(stage_on("attic"))


async def test_a_ring_goes_where_another_decision_puts_it_once_all_is_there() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    found, slices = await placed_on(broker), {node: Slice(
        node=node, device="CPU", first=0, end=20, head=True, process="stage.0"
    ) for node in (ATTIC, CELLAR)}  # fmt: skip
    await leases.put(placement_key("m"), encode(decided(slices[ATTIC], engine="ring")))
    await tell_stage(leases, ATTIC)
    await found.stages("h")
    assert await found.better("h") == "", "it is there"
    await leases.put(placement_key("m"), encode(decided(slices[CELLAR], engine="ring")))
    assert await found.better("h") == "", "the stage is not ready"
    await tell_stage(leases, CELLAR)
    assert "cellar" in await found.better("h")
    assert await found.better("another") == "", "stages of another file are no better"
