"""Decides whether a mixture's experts are read while it computes, and how much memory they get. Pure."""

from dataclasses import dataclass
from typing import Final

from twd.engine.experts.layout import ExpertLayout
from twd.engine.host_memory.limits import gib
from twd.wire.failures import FailureCode, TwdError

_SPARE_SHARE: Final = 0.05
_SPARE_LEAST: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class ExpertWish:
    """The settings of a model. `stream`: auto, on or off. `memory`: bytes for its experts, 0 for as much as is free."""

    stream: str = "auto"
    memory: int = 0


@dataclass(frozen=True, slots=True)
class MachineRoom:
    """What a machine leaves: `free` bytes, of which `other` go to the KV cache; `page` is the size of a page."""

    free: int
    other: int
    page: int
    can: bool = True
    """Whether this system and this build can read experts while computing."""


def expert_budget(layout: ExpertLayout | None, wish: ExpertWish, here: MachineRoom) -> int:
    """The bytes that a model's experts may take, at least those of one layer; 0: load the whole model as usual.

    Raises TwdError with numbers if it cannot work.
    """
    if layout is None or wish.stream == "off" or not here.can:
        if wish.stream == "on":
            raise TwdError(FailureCode.UNSUPPORTED, _why_not(layout))
        return 0
    all_experts = layout.padded_bytes(here.page)
    room = here.free - here.other - layout.dense_bytes - spare(here.free)
    if wish.stream == "auto" and not wish.memory and room >= all_experts:
        return 0
    given = min(wish.memory or room, room, all_experts)
    least = layout.layer_bytes(here.page)
    if given < least:
        raise TwdError(FailureCode.OUT_OF_MEMORY, _too_little(layout, wish, here, least))
    return given


def spare(free: int) -> int:
    """What stays free for buffers of computing and for the process itself."""
    return max(_SPARE_LEAST, int(free * _SPARE_SHARE))


def adapted_budget(budget: int, held: int, free: int, bounds: tuple[int, int], reserve: int) -> int:
    """What the experts should take from now on, within `bounds`, where `reserve` bytes should stay free.

    They give back what others need, and take it again when there is plenty. `held` of `budget` bytes are in use.
    """
    least, most = bounds
    room = free - (budget - held)
    if room < reserve * 3 // 4:
        return max(least, budget - (reserve - room))
    if room > 2 * reserve:
        return min(most, budget + room - 2 * reserve)
    return budget


def _why_not(layout: ExpertLayout | None) -> str:
    if layout is None:
        return "moe_stream is on, but this model has no fused experts; remove the setting"
    return (
        "moe_stream is on, but this build of llama.cpp cannot read experts while computing; run `make setup` on Linux"
    )


def _too_little(layout: ExpertLayout, wish: ExpertWish, here: MachineRoom, least: int) -> str:
    needed = layout.dense_bytes + here.other + spare(here.free) + least
    told = (
        f"with its experts read from disk it needs {gib(needed)}: {gib(layout.dense_bytes)} dense weights, "
        f"{gib(here.other)} KV cache, {gib(least)} for the experts of one layer, {gib(spare(here.free))} spare"
    )
    if wish.memory and wish.memory < least:
        return f"{told}; moe_memory_gb grants {gib(wish.memory)} for experts, which is below one layer's; raise it"
    return f"{told}; {gib(here.free)} are free. Free some, lower ctx_size or parallel, or spread it: mode: combined"
