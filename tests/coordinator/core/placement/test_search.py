"""Where layers go: never over a device's memory, each layer once, the same every time, and quick."""

import time
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.coordinator.core.advice import place_or_advise
from twd.coordinator.core.placement.filling import placed as placed_in_order
from twd.coordinator.core.placement.search import SWAP_GAIN, _with_swaps, place
from twd.coordinator.core.placement.values import (
    MachineLink,
    ModelShape,
    Placement,
    PlacementDemand,
    PlacementDevice,
    needed,
)

GIB = 1024**3
MIB = 1024**2


def shape(layers: int = 32, layer: int = 200 * MIB, kv: int = 4096) -> ModelShape:
    return ModelShape("m", (layer,) * layers, 100 * MIB, 100 * MIB, 4096, 32_000, kv, 8192)


def cpu(node: str, gib: float = 64, speed: float = 20e9) -> PlacementDevice:
    return PlacementDevice(node, "CPU", int(gib * GIB), speed, 3.0)


def gpu(node: str, gib: float, speed: float = 400e9, index: int = 0) -> PlacementDevice:
    return PlacementDevice(node, f"CUDA{index}", int(gib * GIB), speed, 1.2)


def demand(home: PlacementDevice, ctx: int = 4096, sessions: int = 1, **fields: object) -> PlacementDemand:
    return PlacementDemand(ctx, sessions, home, **fields)  # type: ignore[arg-type]


def by_device(placement: Placement) -> dict[tuple[str, str], tuple[int, int]]:
    return {piece.device.key: (piece.first, piece.end) for piece in placement.pieces if piece.end > piece.first}


HOME = cpu("desk")


def test_one_gpu_with_room_takes_everything() -> None:
    placed = place(shape(), [gpu("desk", 24), HOME, gpu("attic", 24)], {}, demand(HOME))
    assert by_device(placed) == {("desk", "CUDA0"): (0, 32)}
    assert placed.link_s == 0


def test_what_one_gpu_cannot_hold_goes_on_to_the_next_machine() -> None:
    placed = place(shape(), [gpu("desk", 4), HOME, gpu("attic", 4)], {}, demand(HOME))
    assert by_device(placed).keys() >= {("desk", "CUDA0"), ("attic", "CUDA0")}
    assert placed.fits


def test_a_far_machine_that_costs_more_than_it_saves_is_left_out() -> None:
    devices = [HOME, gpu("attic", 24)]
    near = place(shape(), devices, {"attic": MachineLink(0.001, 100e6)}, demand(HOME))
    far = place(shape(), devices, {"attic": MachineLink(2.0, 1e6)}, demand(HOME))
    assert ("attic", "CUDA0") in by_device(near)
    assert by_device(far) == {("desk", "CPU"): (0, 32)}


def test_the_head_stays_home_on_a_slow_network_and_goes_far_from_a_slow_processor() -> None:
    small_home, fast_gpu = cpu("desk", 1.5), gpu("attic", 24)
    slow_network = place(
        shape(), [small_home, fast_gpu], {"attic": MachineLink(0.02, 1e6)}, demand(small_home, engine="rpc")
    )
    assert [piece.device.node for piece in slow_network.pieces if piece.head] == ["desk"]
    slow_cpu = cpu("desk", 1.5, speed=1e9)
    near = {"attic": MachineLink(0.0005, 1e9)}
    fast_network = place(shape(), [slow_cpu, fast_gpu], near, demand(slow_cpu, engine="rpc"))
    assert [piece.device.node for piece in fast_network.pieces if piece.head] == ["attic"]


@pytest.mark.parametrize(("quicker", "where"), [(1.1, "desk"), (4.0, "attic")])
def test_the_head_leaves_home_for_more_than_what_like_machines_measure_differently(quicker: float, where: str) -> None:
    home, other = cpu("desk", 3), cpu("attic", 16, speed=quicker * 20e9)
    placed = place(shape(4), [home, other], {"attic": MachineLink(0.0, 1e12)}, demand(home, engine="rpc", split=(1, 3)))
    assert [piece.device.node for piece in placed.pieces if piece.head] == [where]


def test_in_a_ring_only_tokens_come_home_from_the_head() -> None:
    home, fast_gpu = cpu("desk", 1.5), gpu("attic", 24)
    placed = place(shape(), [home, fast_gpu], {"attic": MachineLink(0.02, 1e6)}, demand(home))
    assert [piece.device.node for piece in placed.pieces if piece.head] == ["attic"]
    assert placed.link_s == pytest.approx(0.02, rel=0.01)


def test_rpc_pays_a_round_trip_for_each_worker_and_a_ring_half_of_one_for_each_hop() -> None:
    home = cpu("desk", 1.5)
    devices = [gpu("a", 4), gpu("b", 4)]
    links = {"a": MachineLink(0.02, 1e9), "b": MachineLink(0.02, 1e9)}
    rpc = place(shape(), devices, links, demand(home, engine="rpc"))
    ring = place(shape(), devices, links, demand(home))
    assert rpc.link_s == pytest.approx(0.04, rel=0.05)
    assert ring.link_s == pytest.approx(0.03, rel=0.05)


def test_a_configured_split_is_kept_or_refused() -> None:
    devices = [gpu("desk", 24), gpu("attic", 24)]
    placed = place(shape(), devices, {}, demand(HOME, split=(1.0, 3.0)))
    assert by_device(placed) == {("desk", "CUDA0"): (0, 8), ("attic", "CUDA0"): (8, 32)}
    assert by_device(place(shape(), devices, {}, demand(HOME, split=(0.0, 1.0)))) == {("attic", "CUDA0"): (0, 32)}
    assert not place(shape(), [gpu("desk", 2), gpu("attic", 24)], {}, demand(HOME, split=(1.0, 1.0))).fits


def test_what_does_not_fit_says_by_how_much_and_what_helps() -> None:
    small = cpu("desk", 4)
    placed = place_or_advise(shape(), [small], {}, demand(small))
    assert placed.missing_bytes > needed(shape(), demand(small)) - 4 * GIB
    assert "add a machine or device with" in placed.helps[-1]
    hungry = demand(cpu("desk", 8.5), ctx=131_072, sessions=4)
    helps = place_or_advise(shape(), [hungry.home], {}, hungry).helps
    assert helps[0].startswith("set ctx_size to ")
    ctx = int(helps[0].rsplit(" ", 1)[1])
    assert place(shape(), [hungry.home], {}, demand(hungry.home, ctx=ctx, sessions=4)).fits
    assert not place(shape(), [hungry.home], {}, demand(hungry.home, ctx=ctx + 256, sessions=4)).fits


devices_of_any_kind = st.lists(
    st.builds(
        PlacementDevice,
        st.sampled_from(["desk", "a", "b", "c"]),
        st.sampled_from(["CUDA0", "CUDA1", "ROCm0"]),
        st.integers(0, 12 * GIB),
        st.floats(1e9, 1e12),
        st.floats(1, 4),
    ),
    max_size=8,
    unique_by=lambda device: device.key,
)
shapes = st.builds(
    ModelShape,
    st.just("m"),
    st.lists(st.integers(1, 500 * MIB), min_size=1, max_size=40).map(tuple),
    st.integers(0, 800 * MIB),
    st.integers(0, 800 * MIB),
    st.integers(64, 8192),
    st.integers(64, 200_000),
    st.integers(0, 16_384),
)
links = st.fixed_dictionaries(
    {}, optional={n: st.builds(MachineLink, st.floats(0, 1), st.floats(1e5, 1e10)) for n in "abc"}
)


@given(shapes, devices_of_any_kind, links, st.integers(0, 12), st.integers(1, 8192), st.sampled_from(["ring", "rpc"]))
def test_no_device_over_its_memory_every_layer_once_the_same_every_time(
    model: ModelShape,
    devices: list[PlacementDevice],
    known: dict[str, MachineLink],
    home_gib: int,
    ctx: int,
    engine: str,
) -> None:
    home = cpu("desk", home_gib)
    wish = demand(home, ctx=ctx, engine=engine)
    placed = place(model, [*devices, home], known, wish)
    assert placed == place(model, [home, *reversed(devices)], known, wish), "whatever order they come in"
    if not placed.fits:
        assert placed.pieces == ()
        return
    for piece in placed.pieces:
        assert piece.total <= piece.device.capacity <= piece.device.free
    assert len({piece.device.key for piece in placed.pieces}) == len(placed.pieces)
    covered = sorted(layer for piece in placed.pieces for layer in range(piece.first, piece.end))
    assert covered == list(range(len(model.layer_bytes)))
    assert [piece.head for piece in placed.pieces].count(True) == 1
    assert sum(piece.total for piece in placed.pieces) == needed(model, wish)
    assert placed.speculative_tok_s >= placed.plain_tok_s > 0


def test_stages_stand_in_the_order_that_latency_suggests() -> None:
    far, near = MachineLink(0.05), MachineLink(0.001)
    known = {"a": near, "b": far, "c": near, "d": far}
    devices = [cpu(node, 8) for node in "abcd"]
    placed = place(shape(112, 256 * MIB), devices, known, demand(cpu("desk", 8)))
    assert {piece.device.node for piece in placed.pieces} == set("abcd")
    assert placed.link_s == pytest.approx((3 * 0.05 + 2 * 0.001) / 2, rel=0.01), "not in and out of the far ones"


@given(st.lists(st.floats(0.0001, 0.2), min_size=2, max_size=5))
def test_no_order_of_equal_machines_has_a_shorter_way(rtts: list[float]) -> None:
    known = {f"n{number}": MachineLink(rtt) for number, rtt in enumerate(rtts)}
    devices = [cpu(node, 2) for node in known]
    home, model = cpu("desk", 0.5), shape(8 * len(rtts), 200 * MIB, 1)
    placed = place(model, devices, known, demand(home, ctx=1))
    tried = (placed_in_order(model, order, known, demand(home, ctx=1)) for order in permutations(devices))
    best = min(one.pass_s for one in tried if one.fits)
    assert placed.pass_s <= (1 + SWAP_GAIN) * best + 0.001 * len(rtts), "but for what is not worth another order"


@given(shapes, devices_of_any_kind, links)
def test_swaps_make_no_placement_worse(
    model: ModelShape, devices: list[PlacementDevice], known: dict[str, MachineLink]
) -> None:
    home = cpu("desk", 4)
    wish = demand(home, ctx=256)
    before = placed_in_order(model, [*devices, home], known, wish)
    if not before.fits:
        return
    after = _with_swaps(model, before, known, wish)
    assert after.fits
    assert after.pass_s <= before.pass_s
    assert all(piece.total <= piece.device.capacity for piece in after.pieces)


def test_a_hundred_machines_are_planned_quickly() -> None:
    nodes = [f"n{i:03}" for i in range(100)]
    devices = [HOME, *(gpu(node, 4 + i % 9, 1e11 * (1 + i % 7)) for i, node in enumerate(nodes)), *map(cpu, nodes)]
    known = {node: MachineLink(0.0002 * (1 + i % 20), 1e8) for i, node in enumerate(nodes)}
    big = ModelShape("big", (500 * MIB,) * 80, GIB, GIB, 8192, 128_000, 4096, 8192)
    began = time.perf_counter()
    placed = place(big, devices, known, demand(HOME, ctx=8192, sessions=4))
    print(f"100 machines, {len(devices)} devices, 80 layers: {1000 * (time.perf_counter() - began):.1f} ms")
    assert placed.fits
