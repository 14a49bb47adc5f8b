"""What the status shows about gates and votes, from their leases. Pure."""

from collections.abc import Iterable
from typing import Any

import msgspec

from twd.edge.monitoring.status_types import GateStats
from twd.wire.service import ServiceLease

_PREFIX = "stats_"


def gate_stats(leases: Iterable[ServiceLease]) -> GateStats:
    """The figures of the gate; with several gates, of the one with the most requests."""
    told = [_stats(lease.facts) for lease in leases if lease.service == "gate"]
    return max(told, key=lambda one: one.total_requests, default=GateStats())


def _stats(facts: dict[str, Any]) -> GateStats:
    given = {name: facts[_PREFIX + name] for name in GateStats.__struct_fields__ if _PREFIX + name in facts}
    try:
        return msgspec.convert(given, GateStats)
    except msgspec.ValidationError:  # another version of twd has other fields
        return GateStats()


def gate_facts(leases: Iterable[ServiceLease]) -> dict[str, Any]:
    """Other facts of the gate."""
    return next((dict(lease.facts) for lease in leases if lease.service == "gate"), {})


def wins(facts: dict[str, Any]) -> dict[str, int]:
    """The number of approved answers by member."""
    pairs = (str(one).partition(" ") for one in facts.get("wins", ()))
    return {name: int(count) for count, _, name in pairs if count.isdecimal() and name}


def votes(leases: Iterable[ServiceLease]) -> tuple[int, int]:
    """How many tokens drafters agreed on, and how many tokens of such answers targets decided."""
    facts = [lease.facts for lease in leases if lease.service == "speculator"]
    return _sum(facts, "consensus_accepted"), _sum(facts, "consensus_fallback")


def _sum(facts: list[dict[str, Any]], name: str) -> int:
    return sum(value for one in facts if isinstance(value := one.get(name, 0), int))
