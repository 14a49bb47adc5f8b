"""Experts that are read from disk, as speculators tell it in their leases: one line for each model."""

from collections.abc import Iterable, Iterator

from twd.wire.leases.base import WorkerFacts
from twd.wire.leases.workers import StageFacts
from twd.wire.service import ServiceLease

_GIB = 2**30


def expert_lines(leases: Iterable[ServiceLease]) -> list[str]:
    """Hits, reads and memory of each model whose experts do not all fit in memory."""
    return list(_lines(leases))


def _lines(leases: Iterable[ServiceLease]) -> Iterator[str]:
    for lease in leases:
        told = lease.told(WorkerFacts)
        experts = told.experts if told is not None else None
        if told is None or experts is None:
            continue
        whole = max(experts.expert_bytes, 1)
        hits = f"{experts.hits / experts.asked:.0%} hits" if experts.asked else "not asked yet"
        held = f"{min(1.0, experts.memory_bytes / whole):.0%} of {whole / _GIB:.2f} GiB in memory"
        read = f"{experts.read_bytes / _GIB:.2f} GiB read in {experts.waited_s:.1f} s of waiting"
        told_right = f", {experts.told_right / experts.told:.0%} right of what drafters told" if experts.told else ""
        layers = f", {told.layers}," if isinstance(told, StageFacts) else ""
        yield f"{told.model}{layers} on {lease.node}: {held}, {hits}, {read}{told_right}"
