"""Why a pool is slower than planned: the likely cause, and a command that helps. No I/O."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from twd.pools.state import PoolState, StageState

CLEAR: Final = 0.5
"""Stages are the cause if they lost at least this share of the lost time."""


def slower_because(pool: "PoolState") -> str:
    """The reason as text; empty if the pool is not slower than planned."""
    lost = pool.token_ms - pool.predicted_ms
    known = [stage for stage in pool.stages if stage.ms and stage.predicted_ms]
    if lost <= 0 or not pool.predicted_ms:
        return ""
    if not known:
        return f"its machines tell no times of their own: `twd plan {pool.model}` shows which ways and devices count"
    slowest = max(known, key=_lost_ms)
    if sum(max(0.0, _lost_ms(stage)) for stage in known) < CLEAR * lost:
        return _of_the_way(pool)
    return (
        f"likely {slowest.node} ({slowest.layers}), which computes {slowest.ms:.1f} ms where "
        f"{slowest.predicted_ms:.1f} were planned: something else uses its cores, or its threads do not suit; "
        f"there `twd tune {pool.model} --measure` finds the best, and `twd doctor` tells who shares the machine"
    )


def _lost_ms(stage: "StageState") -> float:
    return stage.ms - stage.predicted_ms


def _of_the_way(pool: "PoolState") -> str:
    """The stages compute as planned, so the time is lost on the links between them or on the driver."""
    far = max(pool.stages, key=lambda stage: stage.rtt_ms)
    way = f" (the longest: {far.node} to {far.to}, {far.rtt_ms:.1f} ms there and back)" if far.rtt_ms else ""
    return (
        f"its stages compute as planned, so likely the ways between them{way}: `twd plan {pool.model}` shows with "
        "which ways it was planned, `twd top` how long they take now"
    )
