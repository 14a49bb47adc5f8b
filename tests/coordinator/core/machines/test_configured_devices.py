"""Devices that the settings name: as large as they say, and no larger for two models than for one."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from tests.coordinator.machines import DESK, GIB, machine
from twd.coordinator.core.machines.configured_devices import all_given, given, with_given
from twd.coordinator.core.machines.device_names import GIVEN
from twd.coordinator.core.machines.devices import find_devices
from twd.coordinator.core.memory_ledger import total
from twd.coordinator.core.model_placement import decide, with_spares
from twd.coordinator.core.placement.values import ModelShape
from twd.coordinator.core.processes import WantedModel, wishes
from twd.coordinator.core.state import ObservedState, WantedState
from twd.coordinator.wanted import wanted_of
from twd.settings.model import GpuConfig, ModelConfig, PoolConfig, WorkerConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import Build, GpuFacts, NodeFacts, ProcessFacts, ProcessKind


def model(name: str, layers: int, layer_bytes: int = GIB // 2) -> WantedModel:
    shape = ModelShape(name, (layer_bytes,) * layers, GIB // 8, GIB // 8, 1024, 32_000, 1024, 4096)
    return WantedModel(name, 1024, 1, shape)


def wanting(pool: PoolConfig, *models: WantedModel) -> WantedState:
    return WantedState(DESK, InstanceId("coordinator.desk.x"), pool, models)


def settle(wanted: WantedState, observed: ObservedState) -> dict[tuple[str, str], int]:
    """Decide about each model in turn; what is promised of each device then."""
    for one in wanted.models:
        observed.decided[one.name] = decide(wanted, observed, one)
    promised: dict[tuple[str, str], int] = {}
    for decision in observed.decided.values():
        for piece in decision.slices:
            key = (piece.node, piece.device)
            promised[key] = promised.get(key, 0) + total(piece)
    return promised


def with_gpus(facts: NodeFacts, *gpus: GpuFacts) -> NodeFacts:
    return msgspec.structs.replace(facts, gpus=list(gpus))


def card(total_gib: float, free_gib: float, name: str = "card", index: int = 0) -> GpuFacts:
    return GpuFacts(name=name, backend="cuda", index=index, total=int(total_gib * GIB), free=int(free_gib * GIB))


def pool_of(*sizes: float) -> PoolConfig:
    return PoolConfig(engine="rpc", trusted_lan=True, gpus=tuple(GpuConfig(vram_gb=size) for size in sizes))


def test_two_models_are_not_both_planned_into_one_device() -> None:
    wanted = wanting(pool_of(8), model("first", 10), model("second", 10))
    observed = ObservedState(nodes={DESK: machine("desk", 64)})
    settle(wanted, observed)
    assert observed.decided["first"].slices
    assert observed.decided["second"].missing_bytes > 0
    again = decide(wanted, observed, wanted.models[0])
    assert again.slices == observed.decided["first"].slices, "its own memory is free for it"


@pytest.mark.parametrize(
    ("size", "found", "free"),
    [
        (24, card(24, 23), 23),
        (20, card(24, 20), 20),
        (20, card(24, 10), 10),
        (99, card(9, 7), 97),
        (8, card(24, 0), 0),
    ],
)
def test_what_others_take_of_a_device_is_not_planned_and_the_settings_say_how_large_it_is(
    size: float, found: GpuFacts, free: float
) -> None:
    facts = with_given(with_gpus(machine("desk"), found), pool_of(size), DESK)
    (named,) = given(facts)
    assert (named.total, named.free) == (size * GIB, free * GIB)
    assert with_given(facts, pool_of(size), DESK) == facts


def test_devices_are_told_apart_by_name_and_else_by_place() -> None:
    found = (card(24, 4, "RTX 3090"), card(12, 10, "RTX 3060", 1))
    named = PoolConfig(gpus=(GpuConfig(vram_gb=12, name="3060"), GpuConfig(vram_gb=24, name="rtx 3090")))
    frees = [gpu.free // GIB for gpu in given(with_given(with_gpus(machine("desk"), *found), named, DESK))]
    assert frees == [10, 4]
    unnamed = [gpu.free // GIB for gpu in given(with_given(with_gpus(machine("desk"), *found), pool_of(24, 12), DESK))]
    assert unnamed == [4, 10]
    fewer = given(with_given(with_gpus(machine("desk"), *found), pool_of(24), DESK))
    assert [(gpu.name, gpu.free // GIB) for gpu in fewer] == [("CUDA0", 4)], "in their order"
    chip = GpuFacts(name="chip", backend="vulkan", total=16 * GIB, free=16 * GIB, shared=True)
    (card_first,) = given(with_given(with_gpus(machine("desk"), chip, found[0]), pool_of(24), DESK))
    assert card_first.name == "CUDA0", "one with memory of its own comes first"
    both = PoolConfig(gpus=(GpuConfig(vram_gb=12, name="RTX 3060"), GpuConfig(vram_gb=12, name="RTX 3060")))
    names = [gpu.name for gpu in given(with_given(with_gpus(machine("desk"), *found), both, DESK))]
    assert names == ["CUDA1", "CUDA0"], "no device counts twice"


def test_other_machines_have_the_devices_of_their_worker_and_machines_without_any_stay_as_they_are() -> None:
    pool = PoolConfig(workers=(WorkerConfig(host="attic", gpus=(GpuConfig(vram_gb=6),)),))
    nodes = {NodeId(name): machine(name, gpu=4) for name in ("desk", "attic")}
    seen = all_given(nodes, pool, DESK)
    assert seen[DESK] == nodes[DESK]
    assert [gpu.total // GIB for gpu in given(seen[NodeId("attic")])] == [6]


def test_a_model_in_memory_leaves_the_rest_of_its_device_to_others() -> None:
    """The detector sees its memory as taken: it counts once, and not as another program's."""
    first = model("first", 10)
    wanted = wanting(pool_of(12), first, model("second", 8))
    observed = ObservedState(nodes={DESK: with_gpus(machine("desk", 64), card(12, 12))})
    observed.decided["first"] = decide(wanted, observed, first)
    held = sum(total(piece) for piece in observed.decided["first"].slices)
    loaded = GpuFacts(name="card", backend="cuda", total=12 * GIB, free=12 * GIB - held)
    observed.nodes, observed.served = {DESK: with_gpus(machine("desk", 64), loaded)}, {"first"}
    assert decide(wanted, observed, first).slices, "where it is, it may stay"
    assert decide(wanted, observed, wanted.models[1]).slices
    other = replace(observed, nodes={DESK: with_gpus(machine("desk", 64), card(12, 1))})
    assert decide(wanted, other, wanted.models[1]).missing_bytes > 0


@drawn(
    st.lists(st.floats(1, 48), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8)), min_size=1, max_size=5),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.booleans(),
)
def test_no_device_is_ever_promised_more_than_the_settings_give_it_and_others_leave(
    sizes: list[float], models: list[tuple[int, int]], free_shares: list[float], found: bool
) -> None:
    seen = [card(size, size * share, index=n) for n, (size, share) in enumerate(zip(sizes, free_shares, strict=False))]
    names = [f"m{number}" for number in range(len(models))]
    wanted = wanting(
        pool_of(*sizes), *(model(n, layers, GIB // part) for n, (layers, part) in zip(names, models, strict=True))
    )
    observed = ObservedState(nodes={DESK: with_gpus(machine("desk", 256), *(seen if found else []))})
    for _ in range(2):  # the second time each of them has a place already, or none
        promised = settle(wanted, observed)
        for index, size in enumerate(sizes):
            most, name = (seen[index].free, f"CUDA{index}") if found else (size * GIB, f"GPU #{index}")
            assert promised.get(("desk", name), 0) <= most + 1
        assert all(device == "CPU" or device.startswith("CUDA" if found else "GPU #") for _, device in promised)


def test_spares_find_only_what_is_left_of_a_device() -> None:
    pool = msgspec.structs.replace(
        PoolConfig(engine="ring", trusted_lan=True, standby=1),
        workers=(
            WorkerConfig(host="attic", gpus=(GpuConfig(vram_gb=10),)),
            WorkerConfig(host="cellar", gpus=(GpuConfig(vram_gb=10),)),
        ),
        layers_at_home=False,
    )
    one = model("one", 12)
    wanted = wanting(pool, one)
    running = [ProcessFacts(process="stage.pool.other", kind=ProcessKind.STAGE, state="ready")]
    nodes = {NodeId(name): machine(name, 64) for name in ("desk", "attic", "cellar")}
    nodes[DESK] = msgspec.structs.replace(nodes[DESK], processes=running)
    observed = ObservedState(nodes=nodes)
    observed.decided["one"] = decide(wanted, observed, one)
    spared = with_spares(wanted, observed, one, observed.decided["one"])
    assert spared.spares
    taken: dict[tuple[str, str], int] = {}
    for piece in (*spared.slices, *spared.spares):
        taken[piece.node, piece.device] = taken.get((piece.node, piece.device), 0) + total(piece)
    assert all(count <= 10 * GIB for (_, device), count in taken.items() if device.startswith("GPU #"))
    assert GIVEN not in str(spared)


def test_devices_that_the_engine_was_not_built_for_get_nothing() -> None:
    builds = [Build(name="engine", backends=["CPU"])]
    facts = msgspec.structs.replace(with_gpus(machine("desk", 64), card(24, 24, "RTX 3090")), builds=builds)
    found = find_devices([facts], PoolConfig(), DESK)
    assert [device.name for device in found.devices] == ["CPU"]
    assert found.notes == (
        "RTX 3090 of desk is left out: llama.cpp there was built without CUDA (CMAKE_ARGS=-DGGML_CUDA=on make setup)",
    )
    assert given(with_given(facts, pool_of(24), DESK))[0].name == "GPU #0"
    built = msgspec.structs.replace(facts, builds=[Build(name="engine", backends=["CUDA", "CPU"])])
    assert [device.name for device in find_devices([built], PoolConfig(), DESK).devices] == ["CUDA0", "CPU"]


@pytest.mark.parametrize("engine", ["ring", "rpc"])
def test_processes_are_told_the_name_that_their_engine_knows(engine: str) -> None:
    sizes = {DESK: (card(8, 8, "RTX 3060", 0), card(24, 24, "RTX 3090", 1)), NodeId("attic"): (card(12, 12),)}
    nodes = {node: with_gpus(machine(node, 64), *cards) for node, cards in sizes.items()}
    attic = WorkerConfig(host="attic", gpus=(GpuConfig(vram_gb=12, name="the old one"),))
    pool = PoolConfig(engine=engine, trusted_lan=True, gpus=(GpuConfig(vram_gb=24, name="3090"),), workers=(attic,))  # type: ignore[arg-type]
    wanted = wanting(pool, model("m", 60))
    observed = ObservedState(nodes=nodes)
    decision = observed.decided["m"] = decide(wanted, observed, wanted.models[0])
    layers = {(piece.node, piece.device) for piece in decision.slices if piece.end > piece.first}
    assert layers == {(DESK, "CUDA1"), ("attic", "CUDA0")}
    wished = list(wishes(wanted.models, engine, observed.decided, nodes))
    told = sorted((str(one.node), *([one.stage.device] if one.stage else one.devices)) for one in wished)
    assert told == [("attic", "CUDA0"), *([("desk", "CUDA1")] if engine == "ring" else [])]


@pytest.mark.parametrize("named", [(), (24.0,)])
def test_a_model_that_is_to_compute_on_processors_gets_no_devices(named: tuple[float, ...]) -> None:
    observed = ObservedState(nodes={DESK: with_gpus(machine("desk", 64), card(24, 24))})
    for on_cpus, devices in ((False, {"CUDA0"}), (True, {"CPU"})):
        wanted = wanting(pool_of(*named), replace(model("m", 10), on_cpus=on_cpus))
        decision = decide(wanted, observed, wanted.models[0])
        assert {piece.device for piece in decision.slices if piece.end > piece.first} == devices


@pytest.mark.parametrize(
    ("fields", "on_cpus"),
    [({}, False), ({"backend": "cpu"}, True), ({"gpu_layers": 0}, True), ({"gpu_layers": 9}, False)],
)
def test_a_models_own_backend_holds_in_a_pool(fields: dict[str, object], on_cpus: bool) -> None:
    entry, shape = msgspec.structs.replace(ModelConfig(path="/nothing.gguf"), **fields), model("m", 2).shape
    assert shape is not None
    assert wanted_of("m", entry, shape).on_cpus is on_cpus
