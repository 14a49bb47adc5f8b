"""The registry, read as a coordinator reads it."""

import msgspec

from tests.coordinator.machines import DESK, GIB, machine
from twd.bus.base import LeaseEntry
from twd.coordinator.links import LinkTable
from twd.supervisor.pool_registry import nodes_of, observed_of, without
from twd.wire.base import InstanceId, ModelId
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import MemoryFacts, node_key
from twd.wire.placement import PlacementDecided, Slice, placement_key
from twd.wire.service import Health, ServiceLease


def entry(key: str, value: object) -> LeaseEntry:
    return LeaseEntry(key, msgspec.json.encode(value), 1, 0.0)


def registry() -> list[LeaseEntry]:
    """One machine with a model that its own process holds, and one that was only promised its place."""
    desk = msgspec.structs.replace(machine(DESK), memory=MemoryFacts(total=8 * GIB, available=3 * GIB))
    lease = ServiceLease(
        instance=InstanceId("speculator.desk.x"), service="speculator", node=DESK, pid=2, version="1", started_ms=1,
        renewed_ms=1, health=Health.OK, facts=SpeculatorFacts(model=ModelId("held")),
    )  # fmt: skip
    decided = [
        PlacementDecided(
            model=ModelId(name), coordinator=InstanceId("c"), home=DESK,
            slices=[Slice(node=DESK, device="CPU", first=0, end=2, weight_bytes=GIB, process=process)],
        )
        for name, process in (("held", ""), ("promised", "rpc.pool.promised"))
    ]  # fmt: skip
    kept = [entry(placement_key(one.place), one) for one in decided]
    return [entry(node_key(DESK), desk), entry(lease.instance, lease), *kept, LeaseEntry("odd", b"{", 1, 0.0)]


def test_what_stands_there_is_what_a_coordinator_would_observe() -> None:
    entries = registry()
    seen = observed_of(entries, nodes_of(entries), LinkTable(), DESK)
    assert list(seen.nodes) == [DESK]
    assert seen.served == {"held"}
    assert seen.homes == {"held": DESK}
    assert list(seen.decided) == ["held", "promised"]


def test_what_an_ended_model_holds_is_free() -> None:
    entries = registry()
    seen = observed_of(entries, nodes_of(entries), LinkTable(), DESK)
    left = without(seen, ["held"])
    assert left.nodes[DESK].memory.available == 4 * GIB
    assert list(left.decided) == ["promised"]
    assert without(seen, ["promised"]).nodes[DESK].memory.available == 3 * GIB
