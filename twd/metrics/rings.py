"""Metrics of rings: counters from the reports of stages, and the round trip times of their links."""

from collections import OrderedDict
from typing import Final

from twd.metrics import families as f
from twd.metrics.families import Labels, LabelValues, MetricValues
from twd.wire.base import InstanceId
from twd.wire.ring import RingMeasured

LATELY_S: Final = 30.0
STAGES_KEPT: Final = 1024
SLICES_MAX: Final = 50
PEERS: Final = frozenset({"home", "previous", "next"})


class RingCounters:
    """Counts reports. Links report their bytes since the start of each ring."""

    def __init__(self, figures: MetricValues, models: LabelValues) -> None:
        self._figures = figures
        self._models = models
        self._slices = LabelValues(SLICES_MAX)
        self._sent: OrderedDict[InstanceId, tuple[str, dict[str, int]]] = OrderedDict()
        self._rtts: dict[Labels, tuple[float, float]] = {}

    def hear(self, event: RingMeasured, now: float) -> None:
        """Count one report."""
        model, layers = self._models.of(event.model), self._slices.of(f"{event.first}-{event.end}")
        add = self._figures.add
        add(f.RING_PASSES, model, layers, by=event.passes)
        add(f.RING_ROWS, model, layers, by=event.rows)
        add(f.RING_DROPPED, model, layers, by=event.dropped)
        add(f.RING_BUSY, model, layers, by=event.passes * event.compute_ms / 1000)
        add(f.RING_QUEUED, model, layers, by=event.passes * event.queue_ms / 1000)
        add(f.RING_KEPT, model, by=event.kept)
        for to, sent in self._new_bytes(event).items():
            add(f.RING_BYTES, model, layers, to, by=sent)
        for hop in event.hops:
            if hop.to in PEERS and hop.rtt_ms:
                self._rtts[model, layers, hop.to] = now, hop.rtt_ms / 1000

    def _new_bytes(self, event: RingMeasured) -> dict[str, int]:
        """Bytes sent since the stage's last report. Empty for a stage that is new here, because it may have run for a
        long time.
        """
        sent = {hop.to: hop.sent_bytes for hop in event.hops if hop.to in PEERS}
        known = self._sent.pop(event.stage, None)
        self._sent[event.stage] = event.ring, sent
        if len(self._sent) > STAGES_KEPT:
            self._sent.popitem(last=False)
        if known is None:
            return {}
        before = known[1] if known[0] == event.ring else {}
        return {to: count - before.get(to, 0) for to, count in sent.items()}

    def rtts(self, now: float) -> dict[Labels, float]:
        """The round trip times of links that were reported lately, in seconds."""
        self._rtts = {labels: told for labels, told in self._rtts.items() if now - told[0] <= LATELY_S}
        return {labels: rtt for labels, (_, rtt) in self._rtts.items()}
