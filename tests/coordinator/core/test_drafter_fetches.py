"""Draft models go to machines that lack their files, where nobody else can run them."""

from typing import Any

import msgspec
import pytest

from tests.coordinator.core.test_drafters import QUICK, box, drafter, seeing, wanting
from tests.coordinator.machines import DESK, GIB
from twd.coordinator.core.plan import plan
from twd.coordinator.core.process_reconciler import idle_drafters
from twd.coordinator.core.state import ObservedState, StartProcess, StartPull, WantedState
from twd.coordinator.core.stores import SeenStore
from twd.settings.model import PoolConfig
from twd.wire.base import NodeId
from twd.wire.node import DiskFacts, NodeFacts, ProcessKind
from twd.wire.swarm import SharedFile, Store

SHED = NodeId("shed")
HERE = SharedFile(file="quick.gguf", size=GIB, hash=QUICK.hash)


def bare(name: str, ram: float = 32, **fields: Any) -> NodeFacts:
    return msgspec.structs.replace(box(name, ram=ram), **{"accepts": True, **fields})


def store(*files: SharedFile, room: int = 9) -> SeenStore:
    return SeenStore(Store(accepts=True, room_bytes=room * GIB), files)


def seen(shed: NodeFacts, *files: SharedFile, room: int = 9) -> ObservedState:
    """A desk whose memory is full, and another machine."""
    observed = seeing(box("desk", QUICK, ram=1), shed)
    observed.stores = {DESK: store(HERE), SHED: store(*files, room=room)}
    return observed


def asked(wanted: WantedState, observed: ObservedState, now: float = 100.0) -> list[Any]:
    """The next requests, none of which is carried out."""
    observed.looked(now)
    found: list[Any] = []
    while (action := plan(wanted, observed, now)) is not None:
        match action:
            case StartPull(wish):
                observed.tried[wish.node, wish.hash[:8]] = now
                found.append(wish)
            case StartProcess(process):
                observed.tried[process.node, process.process] = now
                found.append(process)
            case _:
                raise AssertionError(action)
    return found


def only(*drafters: Any) -> WantedState:
    wanted = wanting(*drafters)
    return WantedState(wanted.home, wanted.coordinator, wanted.pool, (), wanted.drafters)


@pytest.mark.parametrize("node", ["", "shed"])
def test_the_file_comes_and_then_the_drafter_runs(node: str) -> None:
    wanted, observed = only(drafter(node=node)), seen(bare("shed"))
    (wish,) = asked(wanted, observed)
    assert (wish.node, wish.hash, wish.layers) == (SHED, QUICK.hash, None)
    assert idle_drafters(wanted, observed) == ["drafter quick: shed fetches its file"]
    assert not asked(wanted, observed, 110.0)
    observed.stores = {DESK: store(HERE), SHED: store(HERE)}
    assert not asked(wanted, observed, 200.0), "its agent lists it soon"
    observed.nodes = {DESK: observed.nodes[DESK], SHED: box("shed", QUICK)}
    (started,) = asked(wanted, observed, 201.0)
    assert (started.node, started.kind) == (SHED, ProcessKind.DRAFTER)


@pytest.mark.parametrize(
    ("shed", "room"), [(bare("shed", accepts=False), 9), (bare("shed", ram=1), 9), (bare("shed"), 0)]
)
def test_a_machine_that_cannot_take_it_is_not_asked(shed: NodeFacts, room: int) -> None:
    wanted, observed = only(drafter()), seen(shed, room=room)
    assert not asked(wanted, observed)
    assert "copy /models/quick.gguf" in idle_drafters(wanted, observed)[0]


def test_nothing_is_fetched_where_the_settings_forbid_it_or_somebody_has_it() -> None:
    wanted = only(drafter())
    off = WantedState(wanted.home, wanted.coordinator, PoolConfig(fetch="off"), (), wanted.drafters)
    assert not asked(off, seen(bare("shed")))
    observed = seen(bare("shed"))
    observed.nodes = {**observed.nodes, NodeId("attic"): box("attic", QUICK)}
    (started,) = asked(wanted, observed)
    assert started.node == "attic"


def test_swarm_services_are_started_first() -> None:
    wanted, observed = only(drafter()), seen(bare("shed"))
    observed.stores = {}
    disk = DiskFacts(path="/", total=99 * GIB, free=99 * GIB)
    observed.nodes = {node: msgspec.structs.replace(one, disks=[disk]) for node, one in observed.nodes.items()}
    asked(wanted, observed, 0.0)
    assert {one.node for one in asked(wanted, observed, 10.0)} == {DESK, SHED}
