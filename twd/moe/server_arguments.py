"""A placement as arguments of llama-server that a shell takes as they are."""

from collections.abc import Sequence

from twd.moe.placement import DeviceScore, MixturePlan

_NEEDS_QUOTES = frozenset("[]")


def override_arguments(plan: MixturePlan, devices: Sequence[DeviceScore]) -> list[str]:
    """`-ngl`, `-ts`, and one `-ot` for each layer whose experts do not lie with its dense weights.

    `devices` stand in llama.cpp's order. The patterns hold letters, digits, dots, `_` and `+` only: a dot matches the
    dot that stands there, and no shell needs quotes for them.
    """
    cards = [device.name for device in devices if not device.host]
    dense = {layer: share.device.name for share in plan.shares for layer in share.dense_layers}
    counts = [sum(1 for name in dense.values() if name == card) + (plan.outside == card) for card in cards]
    arguments = ["-ngl", str(sum(counts))]
    if len(cards) > 1:
        arguments += ["-ts", ",".join(map(str, counts))]
    for share in plan.shares:
        for layer in share.expert_layers:
            if dense[layer] != share.device.name:
                arguments += ["-ot", f"blk.{layer}.ffn_.+_exps={share.device.name}"]
    return arguments


def shell_line(arguments: Sequence[str]) -> str:
    """One line for a shell: names of RPC devices hold brackets, which some shells would take for a pattern."""
    return " ".join(f"'{one}'" if _NEEDS_QUOTES & set(one) else one for one in arguments)


def rpc_arguments(devices: Sequence[DeviceScore]) -> list[str]:
    """`--rpc` with the address of each worker."""
    addresses = dict.fromkeys(name.partition("[")[2].rstrip("]") for name in (one.name for one in devices) if "[" in name)
    return ["--rpc", ",".join(addresses)] if addresses else []
