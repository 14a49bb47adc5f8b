"""Gauges from the leases in the registry: the latest facts of each service; services that are gone are not shown."""

from collections.abc import Sequence

from twd.metrics import families as f
from twd.metrics.counting import EventCounter
from twd.metrics.families import Labels
from twd.process.process_table import stage_of
from twd.wire.draft import read_paces
from twd.wire.model import single_step_ms
from twd.wire.service import ServiceLease

Series = dict[Labels, float]
SUMMED = {
    f.WAITING: "waiting",
    f.SESSIONS: "sessions",
    f.SESSIONS_MAX: "parallel",
    f.KV_TOKENS: "kv_tokens",
    f.KV_TOKENS_MAX: "kv_tokens_max",
}
"""Gauges that are the sum of one fact over all workers of a model."""
OF_EXPERTS = {
    f.MOE_MEMORY: "moe_memory_bytes",
    f.MOE_ASKED: "moe_asked",
    f.MOE_HITS: "moe_hits",
    f.MOE_READ: "moe_read_bytes",
    f.MOE_WAITED: "moe_waited_s",
}
"""The same over all processes that hold experts of a model: workers and stages."""


def refresh(counting: EventCounter, leases: Sequence[ServiceLease], version: str) -> None:
    """Set all gauges from the leases."""
    speculators = [lease for lease in leases if lease.service == "speculator" and "model" in lease.facts]
    for speculator in speculators:
        for pace in read_paces(speculator.facts):
            counting.meet(pace.drafter, pace.model)
    figures = counting.figures
    for family, fact in SUMMED.items():
        figures.put(family, _sums(counting, speculators, fact))
    holders = [lease for lease in leases if lease.service in ("speculator", "stage") and "model" in lease.facts]
    for family, fact in OF_EXPERTS.items():
        figures.put(family, _sums(counting, holders, fact))
    figures.put(f.EXACT, _worst(counting, speculators))
    figures.put(f.SINGLE_STEP, _steps(counting, speculators))
    figures.put(f.DRAFTER_STEP, _of_drafters(counting, speculators, "token_ms", 0.001))
    figures.put(f.AGREEMENT, _of_drafters(counting, speculators, "agreement", 1.0))
    figures.put(f.LEASES, _leases(counting, leases))
    figures.put(f.BUILD, {(version,): 1.0})


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _model(counting: EventCounter, lease: ServiceLease) -> str:
    return counting.models.of(str(lease.facts["model"]))


def _sums(counting: EventCounter, speculators: Sequence[ServiceLease], fact: str) -> Series:
    series: Series = {}
    for lease in speculators:
        value = _number(lease.facts.get(fact))
        if value is not None:
            labels = (_model(counting, lease),)
            series[labels] = series.get(labels, 0.0) + value
    return series


def _worst(counting: EventCounter, speculators: Sequence[ServiceLease]) -> Series:
    series: Series = {}
    for lease in speculators:
        exact = _number(lease.facts.get("exact"))
        if exact is not None:
            labels = (_model(counting, lease),)
            series[labels] = min(series.get(labels, 1.0), exact)
    return series


def _steps(counting: EventCounter, speculators: Sequence[ServiceLease]) -> Series:
    series: Series = {}
    for lease in speculators:
        if step_ms := single_step_ms(lease.facts):
            series[(_model(counting, lease),)] = step_ms / 1000
    return series


def _of_drafters(counting: EventCounter, speculators: Sequence[ServiceLease], name: str, scale: float) -> Series:
    return {
        (_model(counting, lease), counting.drafter(pace.drafter)): getattr(pace, name) * scale
        for lease in speculators
        for pace in read_paces(lease.facts)
    }


def _leases(counting: EventCounter, leases: Sequence[ServiceLease]) -> Series:
    series: Series = {}
    for lease in leases:
        labels = (counting.services.of(lease.service), stage_of(lease).value)
        series[labels] = series.get(labels, 0.0) + 1
    return series


def in_progress(counting: EventCounter) -> Series:
    """The number of jobs that started and have not ended, by model."""
    series: Series = {}
    for life in counting.lives.open.values():
        series[(life.model,)] = series.get((life.model,), 0.0) + 1
    return series
