"""Where a mixture is placed, what is predicted of it, and the arguments for llama-server."""

from hypothesis import given
from hypothesis import strategies as st

from twd.moe.placement import DeviceScore, layer_ranges, place
from twd.moe.profile import ExpertProfile
from twd.moe.server_arguments import server_arguments, shell_line
from twd.moe.summary import LayerBytes, MixtureSummary

MIB = 1 << 20
LAYERS = 8


def mixture(layers: int = LAYERS, expert: int = 64 * MIB) -> MixtureSummary:
    return MixtureSummary(
        name="m",
        architecture="llama",
        layout="fused",
        gate_up=False,
        biases=False,
        shared_experts=False,
        experts=8,
        used=2,
        layers=tuple(LayerBytes(number, 10 * MIB, 0, expert) for number in range(layers)),
        outside=20 * MIB,
        looked_up=10 * MIB,
        embedding=10 * MIB,
        size_bytes=0,
        slots=8 * layers,
    )


def host(memory: int = 4096) -> DeviceScore:
    return DeviceScore("CPU", memory * MIB, 10e9, disk=1e9)


def card(memory: int, name: str = "CUDA0", speed: float = 500e9) -> DeviceScore:
    return DeviceScore(name, memory * MIB, speed, 20e-6)


def test_a_machine_without_cards_holds_all() -> None:
    plan = place(mixture(), [host()])
    assert [share.device.name for share in plan.shares] == ["CPU"]
    assert plan.disk_bytes == 0
    assert plan.shares[0].hits == 1
    reads = 20 + 80 + 8 * 64 / 4 - 10
    assert abs(plan.token_ms - reads * MIB / 10e9 * 1000) < 0.01
    assert server_arguments(plan, [host()]) == ["-ngl", "0"]


def test_the_quickest_device_takes_dense_weights_and_experts_while_they_fit() -> None:
    devices = [card(300), host()]
    plan = place(mixture(), devices)
    quick, slow = plan.shares
    assert quick.dense_layers == tuple(range(LAYERS))
    assert len(quick.expert_layers) == 2
    assert quick.dense_bytes + quick.expert_bytes <= 300 * MIB
    assert len(slow.expert_layers) == 6
    arguments = server_arguments(plan, devices)
    assert arguments[:2] == ["-ngl", "9"]
    assert arguments[2:] == ["-ot", ",".join(f"blk.{layer}.ffn_.+_exps=CPU" for layer in slow.expert_layers)]
    line = shell_line(arguments)
    assert line.endswith('=CPU"')
    assert not set(line) & set("|()*?'\\$`&;<>~#!{}%^")


def test_all_fits_on_a_large_card() -> None:
    plan = place(mixture(), [card(4096), host()])
    assert [share.expert_layers for share in plan.shares] == [tuple(range(LAYERS)), ()]
    assert server_arguments(plan, [card(4096), host()]) == ["-ngl", "9"]


def test_two_cards_share_as_llama_cpp_splits() -> None:
    devices = [card(70, "CUDA0"), card(90, "CUDA1", 400e9), host()]
    plan = place(mixture(), devices)
    assert {share.device.name: share.dense_layers for share in plan.shares if not share.device.host} == {
        "CUDA0": (0,),
        "CUDA1": (1, 2, 3, 4, 5, 6, 7),
    }
    assert server_arguments(plan, devices)[:4] == ["-ngl", "9", "-ts", "1,8"]


def slow_worker() -> DeviceScore:
    return DeviceScore("RPC0[10.0.0.3:50052]", 4096 * MIB, 1e9, 1e-2)


def test_an_rpc_worker_is_named_with_its_address() -> None:
    devices = [DeviceScore("RPC0[10.0.0.2:50052]", 200 * MIB, 100e9, 1e-4), card(120), host()]
    plan = place(mixture(), devices)
    assert server_arguments(plan, devices)[:2] == ["--rpc", "10.0.0.2:50052"]
    assert "--rpc" not in server_arguments(place(mixture(), [slow_worker(), host()]), [slow_worker(), host()])
    assert shell_line(["a", "x=RPC0[10.0.0.2:50052]"]) == 'a "x=RPC0[10.0.0.2:50052]"'
    assert plan.token_ms <= place(mixture(), devices[1:]).token_ms


def test_what_fits_nowhere_is_read_from_disk_and_more_memory_is_priced() -> None:
    plan = place(mixture(), [host(400)])
    (share,) = plan.shares
    assert 0 < share.disk_bytes < share.expert_bytes
    assert 0 < share.hits < 1
    assert share.disk_ms > share.ms
    rates = [rate for _, rate in plan.more]
    assert plan.tok_s < rates[0] < rates[1] < rates[2]
    assert abs(rates[2] - place(mixture(), [host()]).tok_s) < 0.01


def test_a_profile_tells_that_skewed_choices_need_less_disk() -> None:
    skewed = ExpertProfile(hits={layer: {0: 90.0, 1: 10.0} for layer in range(LAYERS)})
    plain = place(mixture(), [host(400)])
    guided = place(mixture(), [host(400)], "profile-guided", skewed)
    assert guided.token_ms < plain.token_ms
    assert place(mixture(), [host(400)], "balanced", skewed).token_ms == plain.token_ms


def test_too_little_for_the_dense_weights_is_said_in_bytes() -> None:
    plan = place(mixture(), [host(50)])
    assert plan.missing >= 54 * MIB
    assert plan.tok_s == 0


@given(
    cards=st.lists(st.integers(1, 900), max_size=3),
    memory=st.integers(1, 900),
    layers=st.integers(1, 6),
)
def test_every_layer_has_one_place_and_no_card_is_overfull(cards: list[int], memory: int, layers: int) -> None:
    devices = [card(size, f"CUDA{number}", 100e9 + number * 1e9) for number, size in enumerate(cards)] + [host(memory)]
    plan = place(mixture(layers), devices)
    if plan.missing:
        return
    assert sorted(layer for share in plan.shares for layer in share.dense_layers) == list(range(layers))
    assert sorted(layer for share in plan.shares for layer in share.expert_layers) == list(range(layers))
    assert all(s.dense_bytes + s.expert_bytes <= s.device.memory for s in plan.shares if not s.device.host)
    assert abs(sum(share.hits for share in plan.shares) - 1) < 1e-9 or plan.disk_bytes


def test_layers_as_people_write_them() -> None:
    assert layer_ranges([0, 1, 2, 7, 5]) == "0-2, 5, 7"
    assert layer_ranges([]) == "none"
