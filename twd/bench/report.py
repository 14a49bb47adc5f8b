"""Computes the figures of a run: medians, ratios, and how near they come to what the costs allow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from twd.bench.analytic import SpeculationSetting, best_continuous, best_round, plain_rate
from twd.bench.client import MeasuredAnswer


@dataclass(frozen=True, slots=True)
class PlainDraftedPair:
    """The answers to the same prompt without and with drafts, one after the other."""

    kind: str
    plain: MeasuredAnswer
    drafted: MeasuredAnswer

    @property
    def equal(self) -> bool:
        """Whether both texts are equal."""
        return self.plain.tokens == self.drafted.tokens and self.plain.text == self.drafted.text

    @property
    def ratio(self) -> float:
        """The speed with drafts divided by the speed without."""
        return self.drafted.rate / self.plain.rate if self.plain.rate else 0.0


@dataclass(frozen=True, slots=True)
class ReportLine:
    """The figures of one kind of prompt."""

    kind: str
    answers: int
    plain_rate: float
    drafted_rate: float
    ratio: float
    first_ms: float
    gap_p95_ms: float
    tokens_per_pass: float
    acceptance: float
    equal: int
    plain_rate_median: float
    plain_rate_p95: float
    drafted_rate_median: float
    drafted_rate_p95: float
    first_p95_ms: float
    plain_first_ms: float
    plain_first_p95_ms: float
    plain_gap_p95_ms: float


def summarize(pairs: Sequence[PlainDraftedPair]) -> list[ReportLine]:
    """One line for each kind of prompt, and one for all."""
    kinds = list(dict.fromkeys(pair.kind for pair in pairs))
    lines = [_line(kind, [pair for pair in pairs if pair.kind == kind]) for kind in kinds]
    return [*lines, _line("all", pairs)]


def _line(kind: str, pairs: Sequence[PlainDraftedPair]) -> ReportLine:
    plain, drafted = [pair.plain for pair in pairs], [pair.drafted for pair in pairs]
    plain_rates, drafted_rates = [one.rate for one in plain], [one.rate for one in drafted]
    plain_firsts, firsts = _first_ms(plain), _first_ms(drafted)
    passes = sum(answer.stats.passes for answer in drafted)
    checked = sum(answer.stats.checked for answer in drafted)
    return ReportLine(
        kind=kind,
        answers=len(pairs),
        plain_rate=round(_overall([pair.plain for pair in pairs]), 2),
        drafted_rate=round(_overall(drafted), 2),
        ratio=round(_overall(drafted) / max(1e-9, _overall([pair.plain for pair in pairs])), 3),
        first_ms=round(median(firsts), 2),
        gap_p95_ms=round(percentile(_gaps_ms(drafted), 0.95), 2),
        tokens_per_pass=round(sum(len(answer.tokens) for answer in drafted) / max(1, passes), 3),
        acceptance=round(sum(answer.stats.taken for answer in drafted) / max(1, checked), 4),
        equal=sum(pair.equal for pair in pairs),
        plain_rate_median=round(median(plain_rates), 2),
        plain_rate_p95=round(percentile(plain_rates, 0.95), 2),
        drafted_rate_median=round(median(drafted_rates), 2),
        drafted_rate_p95=round(percentile(drafted_rates, 0.95), 2),
        first_p95_ms=round(percentile(firsts, 0.95), 2),
        plain_first_ms=round(median(plain_firsts), 2),
        plain_first_p95_ms=round(percentile(plain_firsts, 0.95), 2),
        plain_gap_p95_ms=round(percentile(_gaps_ms(plain), 0.95), 2),
    )


def _first_ms(answers: Sequence[MeasuredAnswer]) -> list[float]:
    return [answer.first_s * 1000 for answer in answers]


def _gaps_ms(answers: Sequence[MeasuredAnswer]) -> list[float]:
    return [gap * 1000 for answer in answers for gap in answer.gaps_s]


def _overall(answers: Sequence[MeasuredAnswer]) -> float:
    tokens = sum(max(0, len(answer.tokens) - 1) for answer in answers)
    spent = sum(answer.stats.decode_ms for answer in answers)
    return 1000.0 * tokens / spent if spent else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def by_position(pairs: Sequence[PlainDraftedPair]) -> list[tuple[int, int]]:
    """Return the verified and the accepted drafts at each position of a window."""
    depth = max((len(pair.drafted.stats.checked_at) for pair in pairs), default=0)
    return [(_sum_at(pairs, "checked_at", i), _sum_at(pairs, "taken_at", i)) for i in range(depth)]


def _sum_at(pairs: Sequence[PlainDraftedPair], name: str, i: int) -> int:
    columns = (getattr(pair.drafted.stats, name) for pair in pairs)
    return sum(column[i] for column in columns if i < len(column))


def by_drafter(pairs: Sequence[PlainDraftedPair]) -> dict[str, tuple[int, int]]:
    """Return the verified and the accepted drafts of each drafter."""
    totals: dict[str, tuple[int, int]] = {}
    for pair in pairs:
        for share in pair.drafted.stats.drafters:
            checked, taken = totals.get(share.drafter, (0, 0))
            totals[share.drafter] = (checked + share.checked, taken + share.taken)
    return totals


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The speedup over plain decoding that the measured costs and acceptance allow."""

    drafter: str
    token_ms: float
    round_trip_ms: float
    acceptance: float
    in_turns: float
    continuous: float

    @property
    def best(self) -> float:
        """The better of the two ways to draft; beside the target there is only the one."""
        return max(self.in_turns, self.continuous) if self.round_trip_ms else self.in_turns

    def reached(self, ratio: float) -> float:
        """Return which share of it a measured speedup reaches."""
        return round(ratio / self.best, 3)


def ceiling(
    drafter: str,
    cost: Callable[[int], float],
    token_ms: float,
    round_trip_ms: float,
    acceptance: float,
    window_max: int,
) -> Ceiling:
    """Return the best speedup that this drafter could bring, in closed form."""
    setting = SpeculationSetting(cost, token_ms, acceptance, round_trip_ms, window_max)
    plain = plain_rate(setting)
    return Ceiling(
        drafter=drafter,
        token_ms=round(token_ms, 3),
        round_trip_ms=round(round_trip_ms, 3),
        acceptance=round(acceptance, 4),
        in_turns=round(best_round(setting)[1] / plain, 3),
        continuous=round(best_continuous(setting) / plain, 3),
    )
