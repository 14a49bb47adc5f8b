"""Pools as leases, decisions and events tell of them: golden events in, one picture out."""

from typing import Any

import msgspec

from twd.bus.base import LeaseEntry
from twd.pools.state import forecast
from twd.pools.view import REFUSALS_KEPT, SPAN_S, PoolsView
from twd.wire.base import InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.job import TokensAccepted
from twd.wire.leases.base import LeaseFacts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import StageFacts
from twd.wire.model import CostPoint
from twd.wire.node import NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided, Slice
from twd.wire.ring import FrameFault, FrameRefused, HopFacts, RingMeasured, StageReady
from twd.wire.service import ServiceLease

NOTHING = LeaseFacts()
HOME = InstanceId("speculator.desk.x")
CUTS = ((0, 15, False), (15, 30, True))


def entry(key: str, value: object) -> LeaseEntry:
    return LeaseEntry(key, msgspec.json.encode(value), 1, 0.5)


def lease(service: str, instance: str, node: str, facts: LeaseFacts = NOTHING) -> LeaseEntry:
    told = ServiceLease(
        service=service, instance=InstanceId(instance), node=NodeId(node), pid=1, version="1", started_ms=1,
        renewed_ms=1, facts=facts,
    )  # fmt: skip
    return entry(instance, told)


def name(number: int) -> InstanceId:
    return InstanceId(f"stage.n{number}.x")


def stage(number: int, home: str = HOME) -> LeaseEntry:
    first, end, head = CUTS[number]
    node = NodeId(f"n{number}")
    ready = StageReady(
        stage=name(number), node=node, model=ModelId("m"), file_hash="h", first=first, end=end, layers=30, head=head,
        host="127.0.0.1", port=1,
    )  # fmt: skip
    facts = StageFacts(model=ModelId("m"), slice=ready, home=InstanceId(home), sessions=2)
    return lease("stage", name(number), node, facts)


def placement(**fields: Any) -> LeaseEntry:
    slices = [
        Slice(node=NodeId(f"n{number}"), device="CPU", first=first, end=end, head=head, process=f"p{number}", ms=4.0)
        for number, (first, end, head) in enumerate(CUTS)
    ]
    usual: dict[str, Any] = {"slices": slices, "plain_tok_s": 50.0, "engine": "ring", "home": NodeId("desk")}
    decided = PlacementDecided(model=ModelId("m"), coordinator=InstanceId("c"), **(usual | fields))
    return entry("coordinator.placement.6d", decided)


def speculator(**facts: Any) -> LeaseEntry:
    usual = SpeculatorFacts(model=ModelId("m"), engine="ring", exact=True, sessions=2, trip_ms=21.0)
    return lease("speculator", HOME, "desk", msgspec.structs.replace(usual, **facts))


def measured(number: int, sent: int = 0, **figures: Any) -> RingMeasured:
    first, end, head = CUTS[number]
    hops = [HopFacts(to="home", rtt_ms=9.0, sent_bytes=sent // 50), HopFacts(to="previous", rtt_ms=1.0)]
    hops = hops if head else [hops[0], HopFacts(to="next", rtt_ms=20.5, sent_bytes=sent)]
    return RingMeasured(
        ring="r", stage=name(number), node=NodeId(f"n{number}"), model=ModelId("m"), index=number, count=2,
        first=first, end=end, seconds=1.0, sessions=2, hops=hops, **figures,
    )  # fmt: skip


def busy(pools: PoolsView, at: float = 0.0) -> None:
    """Three seconds of work: every third position is thrown away."""
    for second in range(3):
        for number in (0, 1):
            told = measured(
                number, sent=2310 * 30 * (second + 1), passes=10, rows=30, kept=20 * number, dropped=2, aborted=1,
                compute_ms=5.0 + number, queue_ms=0.5, busy=0.06,
            )  # fmt: skip
            pools.hear(told, at + second)


def accepted(count: int) -> TokensAccepted:
    return TokensAccepted(
        job=JobId("j"), attempt=1, session=SessionId("s"), at=0, index=0, tokens=[1] * count, source=HOME
    )


def ring() -> PoolsView:
    pools = PoolsView()
    pools.look([placement(), speculator(), stage(1), stage(0)])
    return pools


def test_a_ring_at_work() -> None:
    pools = ring()
    busy(pools)
    for at in (1.0, 1.5, 2.0):
        pools.hear(accepted(10), at)
    (pool,) = pools.states(3.0)
    assert (pool.model, pool.engine, pool.home, pool.state, pool.sessions) == ("m", "ring", "desk", "ready", 2)
    assert pool.tok_s == 15.0
    assert pool.waste == 1.5
    assert pool.warnings == []
    first, last = pool.stages
    assert (first.node, first.layers, last.node, last.layers) == ("n0", "0-14", "n1", "15-29 + head")
    assert (first.ms, last.ms, first.queue_ms, first.busy, first.predicted_ms) == (5.0, 6.0, 0.5, 0.06, 4.0)
    assert (first.dropped, first.aborted, first.passes, first.waste) == (6, 3, 30, 1.5)
    assert (first.to, first.rtt_ms, first.bytes_per_token) == ("next", 20.5, 2310.0)
    assert (last.to, last.rtt_ms, last.bytes_per_token) == ("home", 9.0, 46.2)
    assert forecast(pool) == "predicted 20.0 ms a token, measured 21.0: 1.05 times that"


def test_what_is_long_ago_does_not_count() -> None:
    pools = ring()
    busy(pools)
    pools.hear(accepted(10), 1.0)
    (pool,) = pools.states(3.0 + SPAN_S)
    assert pool.tok_s == 0.0
    assert pool.stages[0].passes == 10  # the last word of a stage stands
    assert pool.stages[0].rtt_ms == 20.5
    pools.hear(msgspec.structs.replace(measured(0, passes=1, rows=1), ring="another"), 20.0)
    assert pools.states(20.0)[0].stages[0].passes == 1


def test_a_spare_that_serves_stands_for_its_original() -> None:
    first, second = (
        Slice(node=NodeId(node), device="CPU", first=0, end=15, process="p0", ms=ms)
        for node, ms in (("x", 4.0), ("n0", 7.0))
    )
    rest = Slice(node=NodeId("n1"), device="CPU", first=15, end=30, head=True, process="p1", ms=4.0)
    pools = PoolsView()
    pools.look([placement(slices=[first, rest], spares=[second]), speculator(), stage(1), stage(0)])
    (pool,) = pools.states(0.0)
    assert [(one.node, one.state, one.predicted_ms) for one in pool.stages] == [
        ("n0", "ready", 7.0),
        ("n1", "ready", 4.0),
    ]


def test_idle_links_carry_probes_which_are_no_bytes_of_tokens() -> None:
    pools = ring()
    pools.hear(measured(0, sent=0), 0.0)
    pools.hear(measured(0, sent=70_000, passes=1, rows=1), 1.0)
    assert pools.states(1.0)[0].stages[0].bytes_per_token == 0.0


def test_warnings_say_what_is_wrong() -> None:
    pools = PoolsView()
    process = ProcessFacts(process="p1", kind=ProcessKind.STAGE, state="restarting")
    node = NodeFacts(node=NodeId("n1"), instance=InstanceId("agent.n1.x"), machine="n1", pid=1, processes=[process])
    pools.look([placement(), speculator(exact=False, trip_ms=90.0), stage(0), entry("agent.n1.claim", node)])
    pools.hear(measured(0, passes=10, rows=50, busy=0.97), 0.0)
    refused = FrameRefused(stage=name(0), node=NodeId("n0"), fault=FrameFault.GARBAGE, repeated=4)
    pools.hear(refused, 0.5)
    (pool,) = pools.states(1.0)
    assert pool.stages[1].state == "restarting"
    told = "\n".join(pool.warnings)
    for words in ("layers 15-29 + head on n1 restarting", "not exact", "n0 (0-14) is busy 97%", "2 windows or frames"):
        assert words in told
    assert "4.50 times that" in told


def test_refusals_without_end_are_counted_up_to_a_bound() -> None:
    pools = ring()
    flood = FrameRefused(stage=name(0), node=NodeId("n0"), fault=FrameFault.GARBAGE, repeated=2**62)
    pools.hear(flood, 0.5)
    (pool,) = pools.states(1.0)
    assert pool.stages[0].refused == REFUSALS_KEPT


def test_what_the_plan_remarks_is_no_warning() -> None:
    left_out = "attic is left out: it listens for itself alone"
    for others in ([], [speculator(), stage(0), stage(1)]):
        pools = PoolsView()
        pools.look([placement(notes=[left_out]), *others])
        (pool,) = pools.states(0.0)
        assert (pool.notes, left_out in pool.warnings) == ([left_out], False)


def test_a_pool_that_nobody_serves_or_that_does_not_fit() -> None:
    pools = PoolsView()
    pools.look([placement()])
    (pool,) = pools.states(0.0)
    assert pool.state == "no speculator serves it"
    assert [stage.state for stage in pool.stages] == ["is not there"] * 2
    pools.look([placement(slices=[], missing_bytes=5, notes=["5 MB are missing"], helps=["add one"], plain_tok_s=0.0)])
    (pool,) = pools.states(0.0)
    assert (pool.state, pool.warnings, pool.notes) == ("does not fit", ["5 MB are missing", "add one"], [])
    assert forecast(pool) == ""
    pools.look([])
    assert pools.states(0.0) == []


def test_rpc_workers_show_what_their_links_carry() -> None:
    slices = [
        Slice(node=NodeId("desk"), device="CPU", first=0, end=0, ms=1.0),
        Slice(node=NodeId("n1"), device="CPU", first=0, end=30, head=True, process="w", ms=9.0),
    ]
    worker = ProcessFacts(process="w", kind=ProcessKind.RPC, state="ready")
    node = NodeFacts(node=NodeId("n1"), instance=InstanceId("agent.n1.x"), machine="n1", pid=1, processes=[worker])
    links = [HopFacts(to="n1", rtt_ms=20.5, sent_bytes=4801, received_bytes=2 * 196_608), HopFacts(to="gone")]
    pools = PoolsView()
    cost = [CostPoint(width=1, ms=25.5), CostPoint(width=2, ms=26.0)]
    told = {"engine": "rpc", "links": links, "tokens": 2, "cost": cost, "trip_ms": 0.0}
    pools.look([placement(engine="rpc", slices=slices), speculator(**told), entry("agent.n1.claim", node)])
    (pool,) = pools.states(0.0)
    assert [(stage.node, stage.state, stage.rtt_ms) for stage in pool.stages] == [
        ("desk", "ready", 0.0),
        ("n1", "ready", 20.5),
    ]
    assert pool.stages[1].bytes_per_token == 199_008
    assert pool.token_ms == 25.5


def test_what_is_no_pool_is_left_out() -> None:
    pools = PoolsView()
    alone = lease("speculator", "speculator.a.desk.x", "desk", SpeculatorFacts(model=ModelId("a")))
    pools.look([alone, LeaseEntry("odd", b'{"service": "\xff"}', 1, 0.0), lease("edge", "edge.x", "desk")])
    assert pools.states(0.0) == []
    pools.hear(accepted(3), 0.0)
    assert pools.states(0.0) == []
