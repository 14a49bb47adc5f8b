"""Metrics of verdicts, audits and votes."""

from typing import Final

from twd.metrics import families as f
from twd.metrics.families import LabelValues, MetricValues
from twd.wire.base import Event
from twd.wire.job import JobFinished
from twd.wire.judging import AnswerAudited, AnswerJudged, ModeClosed

CONSENSUS: Final = "consensus"
MEMBERS_MAX: Final = 50


class Judgements:
    """Counts the events of gates and racers."""

    def __init__(self, figures: MetricValues, models: LabelValues) -> None:
        self._figures = figures
        self._models = models
        self._members = LabelValues(MEMBERS_MAX)
        self._errors: dict[f.Labels, float] = {}

    def hear(self, event: Event) -> None:
        """Count one event if it is from a gate or a racer."""
        match event:
            case AnswerJudged():
                self._judged(event)
            case AnswerAudited():
                self._audited(event)
            case ModeClosed():
                self._figures.add(f.MODES_CLOSED, self._models.of(event.model), event.mode)
            case _:
                return

    def _judged(self, event: AnswerJudged) -> None:
        model, cost, figures = self._models.of(event.model), event.cost, self._figures
        member = self._members.of(event.judged.member or "none")
        figures.add(f.VERDICTS, model, member, event.judged.verdict.value)
        figures.add(f.GATE_SECONDS, model, by=cost.target_ms / 1000)
        figures.add(f.GATE_MEMBER_SECONDS, model, by=cost.member_ms / 1000)
        figures.add(f.GATE_EXACT_SECONDS, model, by=(cost.exact_ms or 0.0) / 1000)
        figures.add(f.UNLIKE, model, by=event.judged.unlike)

    def _audited(self, event: AnswerAudited) -> None:
        model, member = self._models.of(event.model), self._members.of(event.member)
        self._figures.add(f.AUDITS, model, member, "wrong" if event.wrong else "right")
        self._figures.add(f.GATE_SECONDS, model, by=event.target_ms / 1000)
        ends = {"low": event.low, "rate": event.errors / max(1, event.audits), "high": event.high}
        self._errors |= {(model, member, end): value for end, value in ends.items()}
        self._figures.put(f.AUDITED_ERROR, dict(self._errors))

    def ended(self, event: JobFinished, model: str) -> None:
        """A job ended in which drafters may have voted."""
        judged = event.judged
        if judged is None or judged.member != CONSENSUS:
            return
        self._figures.add(f.AGREED, model, by=judged.kept)
        self._figures.add(f.AGREED_WRONG, model, by=judged.unlike)
        self._figures.add(f.FALLBACK, model, by=event.stats.completion_tokens - judged.kept)
