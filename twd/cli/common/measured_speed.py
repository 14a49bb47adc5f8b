"""The measured speed of a running model, beside the planned one."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from twd.kit.wording import figure

if TYPE_CHECKING:
    from twd.bus.base import LeaseEntry
    from twd.wire.placement import PlacementDecided


def measured_tok_s(entries: "Iterable[LeaseEntry]", model: str) -> float:
    """Return the tokens per second without drafts of the process that serves the model; 0 if none does."""
    from twd.wire.leases.speculator import SpeculatorFacts
    from twd.wire.service import read_lease, told_by

    leases = (read_lease(entry.value, entry.key) for entry in entries)
    serving = next((facts for _, facts in told_by(leases, SpeculatorFacts) if facts.model == model), SpeculatorFacts())
    ms = serving.trip_ms or serving.single_step_ms
    return round(1000 / ms, 2) if ms else 0.0


def beside_measured(decision: "PlacementDecided", measured: float) -> Iterator[str]:
    """Yield one line with both speeds, if both are known."""
    if measured and decision.plain_tok_s:
        share = measured / decision.plain_tok_s
        yield f"measured while it serves: {figure(measured)} tokens/s plain, {figure(share)} of the estimate"
