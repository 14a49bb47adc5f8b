"""Gauges from the leases in the registry: the latest facts of each service; services that are gone are not shown."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from twd.metrics import families as f
from twd.metrics.counting import EventCounter
from twd.metrics.families import Labels, MetricFamily
from twd.process.process_table import stage_of
from twd.wire.draft import DrafterPace
from twd.wire.leases.base import StreamedExperts, WorkerFacts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.service import ServiceLease, told_by

Series = dict[Labels, float]
SUMMED: Mapping[MetricFamily, Callable[[SpeculatorFacts], float]] = {
    f.WAITING: lambda facts: facts.waiting,
    f.SESSIONS: lambda facts: facts.sessions,
    f.SESSIONS_MAX: lambda facts: facts.parallel,
    f.KV_TOKENS: lambda facts: facts.kv_tokens,
    f.KV_TOKENS_MAX: lambda facts: facts.kv_tokens_max,
}
"""Gauges that are the sum of one fact over all workers of a model."""
OF_EXPERTS: Mapping[MetricFamily, Callable[[StreamedExperts], float]] = {
    f.MOE_MEMORY: lambda experts: experts.memory_bytes,
    f.MOE_ASKED: lambda experts: experts.asked,
    f.MOE_HITS: lambda experts: experts.hits,
    f.MOE_READ: lambda experts: experts.read_bytes,
    f.MOE_WAITED: lambda experts: experts.waited_s,
}
"""The same over all processes that hold experts of a model: workers and stages."""


def refresh(counting: EventCounter, leases: Sequence[ServiceLease], version: str) -> None:
    """Set all gauges from the leases."""
    speculators = [facts for _, facts in told_by(leases, SpeculatorFacts) if facts.model and facts.loaded]
    for speculator in speculators:
        for pace in speculator.drafters:
            counting.meet(pace.drafter, pace.model)
    figures = counting.figures
    for family, fact in SUMMED.items():
        figures.put(family, _sums(counting, [(one, fact(one)) for one in speculators]))
    holders = [(one, one.experts) for _, one in told_by(leases, WorkerFacts) if one.experts is not None]
    for family, figure in OF_EXPERTS.items():
        figures.put(family, _sums(counting, [(one, figure(experts)) for one, experts in holders]))
    figures.put(f.EXACT, _worst(counting, speculators))
    figures.put(f.SINGLE_STEP, _steps(counting, speculators))
    figures.put(f.DRAFTER_STEP, _of_drafters(counting, speculators, lambda pace: pace.token_ms / 1000))
    figures.put(f.AGREEMENT, _of_drafters(counting, speculators, lambda pace: pace.agreement))
    figures.put(f.LEASES, _leases(counting, leases))
    figures.put(f.BUILD, {(version,): 1.0})


def _model(counting: EventCounter, facts: WorkerFacts) -> str:
    return counting.models.of(facts.model)


def _sums(counting: EventCounter, values: Iterable[tuple[WorkerFacts, float]]) -> Series:
    series: Series = {}
    for facts, value in values:
        labels = (_model(counting, facts),)
        series[labels] = series.get(labels, 0.0) + value
    return series


def _worst(counting: EventCounter, speculators: Iterable[SpeculatorFacts]) -> Series:
    series: Series = {}
    for facts in speculators:
        if facts.exact is not None:
            labels = (_model(counting, facts),)
            series[labels] = min(series.get(labels, 1.0), float(facts.exact))
    return series


def _steps(counting: EventCounter, speculators: Iterable[SpeculatorFacts]) -> Series:
    measured = (facts for facts in speculators if facts.single_step_ms)
    return {(_model(counting, facts),): facts.single_step_ms / 1000 for facts in measured}


def _of_drafters(
    counting: EventCounter, speculators: Iterable[SpeculatorFacts], value: Callable[[DrafterPace], float]
) -> Series:
    return {
        (_model(counting, facts), counting.drafter(pace.drafter)): value(pace)
        for facts in speculators
        for pace in facts.drafters
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
