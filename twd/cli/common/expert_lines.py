"""Experts that are read from disk, as speculators tell it in their leases: one line for each model."""

from collections.abc import Iterable, Iterator

from twd.wire.service import ServiceLease

_GIB = 2**30


def expert_lines(leases: Iterable[ServiceLease]) -> list[str]:
    """Hits, reads and memory of each model whose experts do not all fit in memory."""
    return list(_lines(leases))


def _lines(leases: Iterable[ServiceLease]) -> Iterator[str]:
    for lease in leases:
        told = {key: value for key, value in lease.facts.items() if isinstance(value, int | float)}
        if "moe_asked" not in told:
            continue
        asked, whole = told["moe_asked"], max(told.get("moe_expert_bytes", 0), 1)
        hits = f"{told.get('moe_hits', 0) / asked:.0%} hits" if asked else "not asked yet"
        held = f"{min(1.0, told.get('moe_memory_bytes', 0) / whole):.0%} of {whole / _GIB:.2f} GiB in memory"
        read = f"{told.get('moe_read_bytes', 0) / _GIB:.2f} GiB read in {told.get('moe_waited_s', 0):.1f} s of waiting"
        layers = f", layers {lease.facts['layers']}," if "layers" in lease.facts else ""
        yield f"{lease.facts.get('model')}{layers} on {lease.node}: {held}, {hits}, {read}"
