"""What a pooled model waits for, what becomes of the parts that are there, and what counts as lost."""

import msgspec
import pytest

from tests.coordinator.machines import machine
from tests.speculator.targets.pooled import ATTIC, BOTH, DESK, WORKER, decided, piece, there, with_worker
from twd.engine.rpc.pool import LayerShare
from twd.speculator.targets.decode_watchdog import UNKNOWN_S
from twd.speculator.targets.pool_core import (
    PoolAssembly,
    assemble,
    pass_deadline_s,
    replaced,
    rpc_plan,
    silent,
)
from twd.wire.draft import DeviceKind
from twd.wire.node import NodeFacts
from twd.wire.placement import PlacementDecided, Slice


@pytest.mark.parametrize(
    ("placement", "nodes", "texts"),
    [
        (None, (), ("the coordinator's decision",)),
        (
            decided(missing_bytes=1, notes=["3.1 GB of memory are missing"], helps=["add a machine"]),
            (),
            ("3.1 GB of memory are missing; add a machine",),
        ),
        (BOTH, (with_worker("attic"),), ("cellar, whose agent is not on the bus",)),
        (BOTH, (with_worker("attic"), machine("cellar")), ("cellar's worker",)),
        (
            BOTH,
            (with_worker("attic", "starting"), machine("cellar")),
            ("attic's worker (starting: why)", "cellar's worker"),
        ),
        (BOTH, (with_worker("attic"), with_worker("cellar")), ()),
    ],
)
def test_what_is_missing_is_said(
    placement: PlacementDecided | None, nodes: tuple[NodeFacts, ...], texts: tuple[str, ...]
) -> None:
    found = assemble(placement, there(*nodes))
    assert found.waits_for == texts
    assert found.complete == (not texts)


def test_layers_on_the_machine_that_serves_count_as_computed_there_whoever_plays_it() -> None:
    def device(*pieces: Slice, played: bool = False) -> DeviceKind:
        desk, attic = machine("desk"), with_worker("attic")
        attic = msgspec.structs.replace(attic, machine=desk.machine) if played else attic
        return assemble(decided(*pieces), there(desk, attic)).device

    gpu = msgspec.structs.replace(piece(ATTIC, 0, 20), device="CUDA0")
    assert device(piece(DESK, 0, 0, head=True), piece(ATTIC, 0, 20)) is DeviceKind.ELSEWHERE
    assert device(piece(DESK, 0, 0, head=True), piece(ATTIC, 0, 20), played=True) is DeviceKind.CPU
    assert device(gpu, played=True) is DeviceKind.GPU
    assert device(piece(DESK, 0, 2), piece(ATTIC, 2, 20)) is DeviceKind.CPU


def test_an_assembly_becomes_the_engines_plan() -> None:
    found = assemble(BOTH, there(with_worker("attic"), with_worker("cellar", port=5002)))
    plan = rpc_plan(found, {f"attic {WORKER}": "a:1", f"cellar {WORKER}": "c:2"})
    assert plan.shares == (LayerShare(2), LayerShare(8, "a:1"), LayerShare(10, "c:2"))
    assert plan.head_here
    assert plan.rtt_ms == 2.0
    behind = decided(piece(ATTIC, 0, 20, head=True), piece(DESK, 0, 0))
    plan = rpc_plan(assemble(behind, there(with_worker("attic"))), {f"attic {WORKER}": "a:1"})
    assert (plan.shares, plan.head_here) == ((LayerShare(20, "a:1"),), False)


def test_another_process_is_a_loss_and_silence_is_a_doubt() -> None:
    nodes = there(with_worker("attic"), with_worker("cellar"))
    loaded = assemble(BOTH, nodes)
    assert (replaced(loaded, loaded), silent(loaded, loaded)) == ("", "")
    assert replaced(loaded, assemble(BOTH, nodes | there(with_worker("attic", pid=8)))) == "attic/CPU was lost"
    assert replaced(loaded, assemble(BOTH, nodes | there(with_worker("attic", "waiting")))) == "attic/CPU was lost"
    quiet = assemble(BOTH, there(with_worker("cellar")))
    assert (replaced(loaded, quiet), silent(loaded, quiet)) == ("", "nothing is heard of attic")
    assert silent(loaded, PoolAssembly()) == "nothing is heard of attic"


def test_a_pass_may_take_long_only_where_it_is_expected_to() -> None:
    assert pass_deadline_s(10.0) == 2.5
    assert pass_deadline_s(2000.0) == 9.0
    assert [pass_deadline_s(10.0, crowd) for crowd in (0.1, 2.0, 50.0)] == [2.5, 5.0, 10.0]
    assert pass_deadline_s(10.0, familiar=False) == UNKNOWN_S
