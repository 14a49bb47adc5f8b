"""A placement as arguments of llama-server that a shell takes as they are."""

from collections.abc import Sequence

from twd.moe.placement import DeviceScore, MixturePlan

_NEEDS_QUOTES = frozenset("[],")


def server_arguments(plan: MixturePlan, devices: Sequence[DeviceScore]) -> list[str]:
    """`--rpc`, `-ngl`, `-ts`, and `-ot` with the layers whose experts do not lie with their dense weights.

    `devices` stand in llama.cpp's order. The patterns need nothing that a shell changes: a dot matches the dot that
    stands there. Workers that hold nothing are left out.
    """
    addresses = list(dict.fromkeys(_address(share.device) for share in plan.shares if _address(share.device)))
    addresses = [one for one in dict.fromkeys(map(_address, devices)) if one in addresses]
    cards = [one.name for one in devices if not one.host and (not _address(one) or _address(one) in addresses)]
    return [*(["--rpc", ",".join(addresses)] if addresses else []), *_split(plan, cards), *_overrides(plan)]


def _address(device: DeviceScore) -> str:
    """Where an RPC worker is; empty for other devices."""
    return device.name.partition("[")[2].rstrip("]")


def _split(plan: MixturePlan, cards: Sequence[str]) -> list[str]:
    dense = [share.device.name for share in plan.shares for _ in share.dense_layers]
    counts = [dense.count(card) + (plan.outside == card) for card in cards]
    return ["-ngl", str(sum(counts)), *(["-ts", ",".join(map(str, counts))] if len(cards) > 1 else [])]


def _overrides(plan: MixturePlan) -> list[str]:
    dense = {layer: share.device.name for share in plan.shares for layer in share.dense_layers}
    away = sorted((layer, one.device.name) for one in plan.shares for layer in one.expert_layers)
    patterns = [f"blk.{layer}.ffn_.+_exps={name}" for layer, name in away if dense[layer] != name]
    return ["-ot", ",".join(patterns)] if patterns else []


def shell_line(arguments: Sequence[str]) -> str:
    """One line for a shell. Brackets and commas mean something to some; between double quotes they do to none."""
    return " ".join(f'"{one}"' if _NEEDS_QUOTES & set(one) else one for one in arguments)
