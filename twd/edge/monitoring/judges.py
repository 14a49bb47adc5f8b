"""What the status shows about gates and votes, from their leases. Pure."""

from collections.abc import Iterable

from twd.wire.leases.gate import GateFacts, GateFigures
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.service import ServiceLease, told_by


def gate_stats(leases: Iterable[ServiceLease]) -> GateFigures:
    """The figures of the gate; with several gates, of the one with the most requests."""
    found = [facts.stats for _, facts in told_by(leases, GateFacts)]
    return max(found, key=lambda one: one.total_requests, default=GateFigures())


def gate_facts(leases: Iterable[ServiceLease]) -> GateFacts:
    """Other facts of the gate."""
    return next((facts for _, facts in told_by(leases, GateFacts)), GateFacts())


def votes(leases: Iterable[ServiceLease]) -> tuple[int, int]:
    """How many tokens drafters agreed on, and how many tokens of such answers targets decided."""
    told = [facts for _, facts in told_by(leases, SpeculatorFacts)]
    return sum(one.consensus_accepted for one in told), sum(one.consensus_fallback for one in told)
