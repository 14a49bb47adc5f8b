"""Describes which processes share cores: for `twd status`, `top`, `plan` and `doctor`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from twd.cli.doctor.finding_ids import FindingId
from twd.cli.doctor.findings import Finding, good, odd
from twd.kit.wording import count
from twd.process.core_plan import CoreShare
from twd.wire.leases.base import CoreFacts, WorkerFacts
from twd.wire.leases.workers import DrafterLeaseFacts
from twd.wire.service import ServiceLease

SLOWED: Final = 2.0
"""From this slowdown on, a drafter probably brings less than it loses by sharing cores."""


def share_of(lease: ServiceLease) -> CoreFacts | None:
    """Return the core share in a lease; None if there is none."""
    told = lease.told(WorkerFacts)
    return told.core_share if told is not None else None


def shared_lines(leases: Iterable[ServiceLease]) -> list[str]:
    """One line for each process that shares its cores, or computes with fewer threads than planned."""
    found = ((lease, share_of(lease)) for lease in leases)
    return [
        f"{_named(lease)}: {in_words(share)}{_cost(lease)}"
        for lease, share in found
        if share is not None and (share.beside or share.in_use)
    ]


def check_cores(leases: Iterable[ServiceLease]) -> list[Finding]:
    """Check whether drafters that share cores are still fast."""
    found = []
    for lease in leases:
        share = share_of(lease)
        if share is None or not share.yields:
            continue
        text = f"{in_words(share)}{_cost(lease)}"
        alone, now = _paces(lease)
        if alone and now > SLOWED * alone:
            mend = "twd run drafter  # on another machine, or give it cores of its own with `taskset`"
            found.append(odd(FindingId.CORES_SHARED, f"cores of {_named(lease)}", text, mend))
        else:
            found.append(good(f"cores of {_named(lease)}", text))
    return found


def in_words(share: CoreFacts | CoreShare) -> str:
    """Return a core share in words."""
    if share.on_card:
        return f"on the card of {_listed(share.beside)}" if share.beside else "on a card of its own"
    with_whom = f", on the cores of {_listed(share.beside)}" if share.beside else ""
    fewer = (
        f" ({share.in_use} in use: other programs take cores)" if isinstance(share, CoreFacts) and share.in_use else ""
    )
    return f"{count(share.threads, 'thread')}{fewer}{with_whom}{', to whom it gives way' if share.yields else ''}"


def _listed(beside: Sequence[str]) -> str:
    return ", ".join(f"{many} x {who}" if many > 1 else who for who, many in Counter(beside).items())


def _named(lease: ServiceLease) -> str:
    return f"{lease.service} {lease.model} on {lease.node}"


def _cost(lease: ServiceLease) -> str:
    alone, now = _paces(lease)
    return f"; a guess takes {now:.1f} ms, {alone:.1f} where nobody else computes" if alone and now else ""


def _paces(lease: ServiceLease) -> tuple[float, float]:
    """Return the ms per draft of a drafter alone, and now; 0: not known."""
    told = lease.told(DrafterLeaseFacts)
    return (told.alone_ms, told.token_ms) if told is not None else (0.0, 0.0)
