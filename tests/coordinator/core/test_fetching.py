"""Machines without a model's file: planned where they can fetch, asked for layers, used when these have come."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.coordinator.machines import DESK, GIB, SHAPE, machine
from tests.properties import examples
from twd.coordinator.core import fetching
from twd.coordinator.core.placement.values import MachineLink
from twd.coordinator.core.plan import plan
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.state import (
    Action,
    DecidePlacement,
    ObservedState,
    SetAim,
    StartProcess,
    StartPull,
    StopProcess,
    StopPull,
    WantedState,
)
from twd.coordinator.core.stores import SeenStore
from twd.engine.host_memory.limits import gib
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import DiskFacts, ModelFile, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided
from twd.wire.swarm import Fetching, LayerRange, PullUnwanted, PullWanted, SharedFile, SliceHere, Store

HASH = "ab" * 16
FILE = ModelFile(name="big", path="/m/big.gguf", size_bytes=20 * GIB, hash=HASH)
MODEL = WantedModel("big", 4096, 1, SHAPE, file=FILE)
SHED, BARN = NodeId("shed"), NodeId("barn")


def wanting(pool: PoolConfig | None = None, models: Sequence[WantedModel] = (MODEL,)) -> WantedState:
    return WantedState(DESK, InstanceId("coordinator.desk.x"), pool or PoolConfig(), tuple(models))


def with_file(facts: NodeFacts) -> NodeFacts:
    return msgspec.structs.replace(facts, models=[FILE])


def without(name: str, ram: float = 12, disk: float = 100, *, accepts: bool = True) -> NodeFacts:
    disks = [DiskFacts(path="/", total=int(disk * GIB), free=int(disk * GIB))]
    return msgspec.structs.replace(machine(name, ram), disks=disks, accepts=accepts)


def whole(hash_: str = HASH) -> SeenStore:
    return SeenStore(Store(room_bytes=50 * GIB), (SharedFile(file="big.gguf", size=20 * GIB, hash=hash_),))


def empty(room: float = 50) -> SeenStore:
    return SeenStore(Store(accepts=True, room_bytes=int(room * GIB)))


class Pool:
    """Machines of a test, and what a coordinator does with them."""

    def __init__(self, *nodes: NodeFacts, wanted: WantedState | None = None, stores: bool = True) -> None:
        self.wanted = wanted or wanting()
        self.observed = ObservedState(nodes={facts.node: facts for facts in nodes})
        if stores:
            self.observed.stores = {
                facts.node: whole() if facts.models else empty() for facts in nodes if not facts.guest
            }
        self.now = 0.0

    def turn(self, seconds: float = 1.0) -> list[Action]:
        """What is done in one turn."""
        self.now += seconds
        self.observed.looked(self.now)
        done: list[Action] = []
        for _ in range(64):
            action = plan(self.wanted, self.observed, self.now)
            if action is None:
                return done
            done.append(action)
            self._carry_out(action)
        raise AssertionError(f"it never comes to rest: {done[-3:]}")

    def _carry_out(self, action: Action) -> None:
        observed = self.observed
        match action:
            case DecidePlacement(decision, basis):
                observed.decided["big"], observed.basis["big"] = decision, basis
            case SetAim(place, aim):
                observed.aims[place] = aim
            case StartPull(wish):
                observed.tried[wish.node, fetching.pull_name(wish.hash, wish.layers)] = self.now
            case StopPull(wish):
                observed.tried[wish.node, f"stop {fetching.pull_name(wish.hash, wish.layers)}"] = self.now
            case StopProcess(unwanted):
                facts = observed.nodes[unwanted.node]
                left = [known for known in facts.processes if known.process != unwanted.process]
                observed.nodes = {**observed.nodes, unwanted.node: msgspec.structs.replace(facts, processes=left)}
            case StartProcess(wish):
                observed.tried[wish.node, wish.process] = self.now
                self.run(wish.node, wish.process, wish.kind)

    def run(self, node: NodeId, process: str, kind: ProcessKind) -> None:
        """A process runs there from now on."""
        facts = self.observed.nodes[node]
        more = [*facts.processes, ProcessFacts(process=process, kind=kind, state="ready")]
        self.observed.nodes = {**self.observed.nodes, node: msgspec.structs.replace(facts, processes=more)}

    def has(self, node: NodeId, *slices: LayerRange, jobs: Sequence[Fetching] = ()) -> None:
        """What a machine's swarm service tells now."""
        held = [SliceHere(hash=HASH, layers=one) for one in slices]
        store = Store(accepts=True, room_bytes=50 * GIB, slices=held, fetching=list(jobs))
        self.observed.stores = {**self.observed.stores, node: SeenStore(store)}

    @property
    def decided(self) -> PlacementDecided:
        return self.observed.decided["big"]

    @property
    def aim(self) -> PlacementDecided:
        found = self.observed.aims["big"].decision
        assert found is not None
        return found


def pulls(actions: Sequence[Action]) -> list[PullWanted]:
    return [one.wish for one in actions if isinstance(one, StartPull)]


def stages(actions: Sequence[Action]) -> set[NodeId]:
    return {one.wish.node for one in actions if isinstance(one, StartProcess) and one.wish.kind is ProcessKind.STAGE}


def test_a_model_without_room_waits_for_a_machine_that_fetches() -> None:
    pool = Pool(with_file(machine("desk", 12)), without("shed"))
    done = pool.turn()
    assert {piece.node for piece in pool.decided.slices} == {DESK, SHED}
    assert stages(done) == {DESK}, "the other one waits for its layers"
    (wish,) = pulls(done)
    (piece,) = [piece for piece in pool.decided.slices if piece.node == SHED]
    assert (wish.node, wish.hash) == (SHED, HASH)
    assert wish.layers == LayerRange(first=piece.first, end=piece.end, head=piece.head)
    (fetch,) = pool.decided.fetches
    assert (fetch.node, fetch.sources, fetch.bytes) == (SHED, [DESK], piece.weight_bytes + piece.other_bytes)
    assert not pulls(pool.turn()), "it is not asked twice"
    pool.has(SHED, wish.layers)
    done = pool.turn()
    assert stages(done) == {SHED}
    assert not pool.decided.fetches
    assert pool.turn() == []


def test_what_fits_serves_first_and_the_model_moves_when_the_rest_is_there() -> None:
    """The desk's graphics card is small, and the shed's is not."""
    shed = msgspec.structs.replace(without("shed", 64), cpu=msgspec.structs.replace(machine("x").cpu, bandwidth=10**12))
    pool = Pool(with_file(machine("desk", 64)), shed)
    done = pool.turn()
    assert {piece.node for piece in pool.decided.slices} == {DESK}
    assert SHED in {piece.node for piece in pool.aim.slices}
    (wish,) = pulls(done)
    assert wish.layers is not None
    assert "shed is left out" not in " ".join(pool.decided.notes)
    assert pool.decided.fetches == pool.aim.fetches
    assert pool.turn() == []
    pool.has(SHED, wish.layers)
    pool.turn()
    assert SHED in {piece.node for piece in pool.decided.slices}
    assert not pool.decided.fetches
    assert pool.turn() == []


@pytest.mark.parametrize(
    "shed",
    [
        without("shed", accepts=False),
        without("shed", disk=0),
        msgspec.structs.replace(without("shed"), lends=False),
    ],
)
def test_a_machine_that_cannot_fetch_is_left_out(shed: NodeFacts) -> None:
    pool = Pool(with_file(machine("desk", 12)), shed, stores=False)
    assert not pulls(pool.turn())
    assert pool.decided.missing_bytes
    assert any("shed is left out" in note for note in pool.decided.notes)


def test_fetching_can_be_turned_off() -> None:
    pool = Pool(with_file(machine("desk", 12)), without("shed"), wanted=wanting(PoolConfig(fetch="off")))
    assert not pulls(pool.turn())
    assert "copy the file" in " ".join(pool.decided.notes)


def test_no_machine_gets_more_than_its_disk_takes() -> None:
    pool = Pool(with_file(machine("desk", 20)), without("shed", 20), without("barn", 20))
    pool.observed.stores = {**pool.observed.stores, SHED: empty(2)}
    pool.turn()
    taken = {piece.node: piece.weight_bytes + piece.other_bytes for piece in pool.aim.slices}
    assert taken.get(SHED, 0) <= 2 * GIB


def test_swarm_services_are_started_where_they_are_missing() -> None:
    pool = Pool(with_file(machine("desk", 12)), without("shed"), stores=False)
    assert not pulls(pool.turn())
    done = pool.turn(fetching.SWARM_S)
    swarms = {one.wish.node for one in done if isinstance(one, StartProcess) and one.wish.kind is ProcessKind.SWARM}
    assert swarms == {DESK, SHED}
    assert not pulls(done), "nobody is there to hear it"
    pool.observed.stores = {DESK: whole(), SHED: empty()}
    assert len(pulls(pool.turn())) == 1


def test_a_fetch_that_failed_is_told_and_tried_again() -> None:
    pool = Pool(with_file(machine("desk", 12)), without("shed"))
    (wish,) = pulls(pool.turn())
    assert wish.layers is not None
    job = Fetching(hash=HASH, layers=wish.layers, done_bytes=GIB, total_bytes=4 * GIB, bytes_s=1e8)
    pool.has(SHED, jobs=[job])
    assert not pulls(pool.turn(60.0))
    (told,) = fetching.remarks(pool.wanted, pool.observed)
    assert "25%" in told
    assert "about 32 s to go" in told
    pool.has(SHED, jobs=[msgspec.structs.replace(job, problem="the disk of /m is full")])
    assert len(pulls(pool.turn())) == 1
    assert any("disk of /m is full" in line for line in fetching.remarks(pool.wanted, pool.observed))
    assert not pulls(pool.turn(fetching.FAILED_S / 2))
    assert len(pulls(pool.turn(fetching.FAILED_S))) == 1


def test_a_fetch_that_no_model_needs_is_stopped() -> None:
    pool = Pool(with_file(machine("desk", 64)), without("shed"))
    stray, foreign = LayerRange(first=3, end=9), Fetching(hash="cd" * 16, layers=LayerRange(first=0, end=1))
    pool.has(SHED, jobs=[Fetching(hash=HASH, layers=stray), foreign])
    done = pool.turn()
    assert [one.wish for one in done if isinstance(one, StopPull)] == [
        PullUnwanted(node=SHED, root="", hash=HASH, layers=stray)
    ]


def test_fetched_layers_serve_on_while_others_come() -> None:
    pool = Pool(with_file(machine("desk", 12)), without("shed"))
    (wish,) = pulls(pool.turn())
    assert wish.layers is not None
    pool.has(SHED, wish.layers)
    pool.turn()
    before = pool.decided
    quick = msgspec.structs.replace(
        without("barn", 64), cpu=msgspec.structs.replace(machine("x").cpu, bandwidth=10**12)
    )
    pool.observed.nodes = {**pool.observed.nodes, BARN: quick}
    pool.observed.stores = {**pool.observed.stores, BARN: empty()}
    done = pool.turn()
    assert [one.node for one in pulls(done)] == [BARN]
    assert pool.decided == before
    pool.has(BARN, *(one.layers for one in pulls(done) if one.layers is not None))
    pool.turn()
    assert BARN in {piece.node for piece in pool.decided.slices}


def test_a_machine_that_leaves_takes_its_layers_along() -> None:
    pool = Pool(with_file(machine("desk", 12)), without("shed"), without("barn"))
    first = pulls(pool.turn())
    for one in first:
        assert one.layers is not None
        pool.has(one.node, one.layers)
    pool.turn()
    gone = first[0].node
    pool.observed.nodes = {node: facts for node, facts in pool.observed.nodes.items() if node != gone}
    pool.observed.stores = {node: seen for node, seen in pool.observed.stores.items() if node != gone}
    done = pool.turn()
    assert gone not in {piece.node for piece in pool.decided.slices}
    assert {one.node for one in pulls(done)} == {SHED, BARN} - {gone}


def test_spares_are_fetched_too() -> None:
    pool = Pool(with_file(machine("desk", 64)), without("shed", 64), wanted=wanting(PoolConfig(standby=1)))
    done = pool.turn()
    (spare,) = pool.decided.spares
    assert spare.node == SHED
    (wish,) = pulls(done)
    assert SHED not in stages(done)
    assert wish.layers == LayerRange(first=spare.first, end=spare.end, head=spare.head)
    pool.has(SHED, wish.layers)
    assert stages(pool.turn()) == {SHED}
    assert pool.turn() == []


def test_other_engines_are_left_as_they_were() -> None:
    pool = Pool(with_file(machine("desk", 12)), without("shed"), wanted=wanting(PoolConfig(engine="rpc")))
    assert not pulls(pool.turn())


def test_layers_of_split_models_are_fetched_like_others() -> None:
    split = replace(MODEL, file=msgspec.structs.replace(FILE, shards=3))
    pool = Pool(with_file(machine("desk", 12)), without("shed"), wanted=wanting(models=[split]))
    (wish,) = pulls(pool.turn())
    assert (wish.node, wish.hash) == (SHED, FILE.hash)


def test_another_aim_of_the_same_machines_is_taken_when_it_has_come() -> None:
    """A machine that comes and goes leaves another aim behind; then one that served comes back without its layers."""
    loft, attic = NodeId("loft"), NodeId("attic")
    pool = Pool(with_file(machine("desk", 21)), without("shed", 2, 0), stores=False)
    pool.observed.stores = {DESK: whole(), SHED: empty(1)}
    pool.turn(31.0)

    def comes(name: NodeId, room: float) -> None:
        pool.observed.nodes = {**pool.observed.nodes, name: without(name, 2, 0)}
        pool.observed.stores = {**pool.observed.stores, name: empty(room)}
        pool.turn(31.0)

    def fetched(name: NodeId, layers: LayerRange) -> None:
        store = msgspec.structs.replace(pool.observed.stores[name].store, slices=[SliceHere(hash=HASH, layers=layers)])
        pool.observed.stores = {**pool.observed.stores, name: SeenStore(store)}

    comes(loft, 2)
    comes(attic, 1)
    fetched(loft, LayerRange(first=0, end=1))
    comes(attic, 2)
    comes(BARN, 0)
    fetched(attic, LayerRange(first=19, end=20, head=True))
    pool.observed.nodes = {name: facts for name, facts in pool.observed.nodes.items() if name != BARN}
    pool.turn(31.0)
    comes(loft, 1)
    for piece in pool.decided.slices:
        assert holds(pool, piece.node, LayerRange(first=piece.first, end=piece.end, head=piece.head))


def test_how_long_it_takes() -> None:
    pool = Pool(with_file(machine("desk", 12)), without("shed"))
    pool.turn()
    size = sum(one.bytes for one in pool.aim.fetches)
    assert fetching.fetch_seconds(pool.aim, {}) == pytest.approx(size / 100e6)
    link = MachineLink(bytes_s=1e9, measured=True)
    words = f"shed: fetch {gib(size)} from desk: about {size / 1e9:.0f} s"
    assert fetching.fetch_line(pool.aim, {"shed": link}) == words
    assert not fetching.fetch_line(msgspec.structs.replace(pool.aim, fetches=[]), {})


def holds(pool: Pool, node: NodeId, layers: LayerRange) -> bool:
    """Whether a stage could start there."""
    facts, seen = pool.observed.nodes[node], pool.observed.stores.get(node)
    return bool(facts.models) or (seen is not None and any(one.layers == layers for one in seen.store.slices))


@examples(40)
@given(data=st.data())
def test_it_comes_to_rest_whatever_comes_and_goes(data: st.DataObject) -> None:
    names = ("shed", "barn", "attic", "loft")
    everybody = {
        NodeId(name): replaced(
            without(name, data.draw(st.integers(2, 24)), data.draw(st.integers(0, 60))),
            data.draw(st.booleans()),
        )
        for name in names
    }
    pool = Pool(with_file(machine("desk", data.draw(st.integers(4, 30)))), stores=False)
    pool.observed.stores = {DESK: whole()}
    for _ in range(data.draw(st.integers(1, 12))):
        name = NodeId(data.draw(st.sampled_from(names)))
        nodes, stores = dict(pool.observed.nodes), dict(pool.observed.stores)
        if name in nodes and data.draw(st.booleans()):
            del nodes[name]
            stores.pop(name, None)
        else:
            nodes[name] = everybody[name]
            stores[name] = whole() if everybody[name].models else empty(data.draw(st.integers(0, 30)))
        pool.observed.nodes, pool.observed.stores = nodes, stores
        done = pool.turn(31.0)
        for one in done:
            if isinstance(one, StartProcess) and one.wish.stage is not None:
                stage = one.wish.stage
                assert holds(pool, one.wish.node, LayerRange(first=stage.first, end=stage.end, head=stage.head))
        for wish in pulls(done):
            if wish.layers is not None and data.draw(st.booleans()):
                seen = pool.observed.stores[wish.node]
                kept = [*seen.store.slices, SliceHere(hash=HASH, layers=wish.layers)]
                store = msgspec.structs.replace(seen.store, slices=kept)
                pool.observed.stores = {**pool.observed.stores, wish.node: SeenStore(store)}
    for _ in range(8):  # now all that is asked for comes
        for wish in pulls(pool.turn(31.0)):
            assert wish.layers is not None
            seen = pool.observed.stores[wish.node]
            store = msgspec.structs.replace(
                seen.store, slices=[*seen.store.slices, SliceHere(hash=HASH, layers=wish.layers)]
            )
            pool.observed.stores = {**pool.observed.stores, wish.node: SeenStore(store)}
    assert not [one for one in pool.turn() if not isinstance(one, StartProcess)]
    assert not fetching.remarks(pool.wanted, pool.observed)
    for piece in pool.decided.slices:
        assert holds(pool, piece.node, LayerRange(first=piece.first, end=piece.end, head=piece.head))


def replaced(facts: NodeFacts, has_file: bool) -> NodeFacts:
    """The machine, with the file or without."""
    return with_file(facts) if has_file else facts
