"""The metrics in the text format that Prometheus reads."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from twd.metrics.families import FAMILIES, HistogramSeries, MetricFamily, MetricKind, MetricValues


class Exposition(Collector):
    """Shows metrics that are kept elsewhere; metrics without any series are shown by name."""

    def __init__(self, figures: MetricValues) -> None:
        self._figures = figures
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> str:
        """All metrics as text, with their values now."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        """Called by the Prometheus registry."""
        for family in FAMILIES:
            yield self._histogram(family) if family.kind is MetricKind.HISTOGRAM else self._plain(family)

    def _plain(self, family: MetricFamily) -> Metric:
        make = CounterMetricFamily if family.kind is MetricKind.COUNTER else GaugeMetricFamily
        metric = make(family.name, family.about, labels=family.labels)
        for labels, value in self._figures.values.get(family, {}).items():
            metric.add_metric(labels, value)
        return metric

    def _histogram(self, family: MetricFamily) -> Metric:
        metric = HistogramMetricFamily(family.name, family.about, labels=family.labels)
        for labels, spread in self._figures.spreads.get(family, {}).items():
            metric.add_metric(labels, buckets=_buckets(family, spread), sum_value=spread.total)
        return metric


def _buckets(family: MetricFamily, spread: HistogramSeries) -> list[tuple[str, float]]:
    bounds = [*(f"{float(bound)}" for bound in family.buckets), "+Inf"]
    return list(zip(bounds, map(float, accumulate(spread.counts)), strict=True))
