"""Finds how large a member's gaps may be before its answers are wrong too often, using the user's own prompts.

The observations are split into three parts; a conversation is never divided. The first part chooses the statistic and
the thresholds to try. The second proves the loosest threshold whose exact bound holds. The third only reports.
Thresholds are tried from the strictest to the loosest, and the first that fails ends the search. So the chance that a
wrong threshold passes stays at 1 - confidence, however many are tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import sqrt
from typing import Final

from twd.gate.calibration.binomial import interval, trials_needed, upper_bound
from twd.gate.verdict import STATISTICS, Rule, Statistic, decide, statistic_of
from twd.wire.job import AnswerVerdict

THRESHOLDS: Final = 12
SPARE_ERRORS: Final = 3
"""If there are enough answers, the strictest threshold that is tried must pass so many of them that this many errors
are allowed. Then one unlucky answer does not end the search.
"""
MARGIN: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Observation:
    """One answer of a member: the gaps of its tokens, and whether it was wrong where the target's answer was not."""

    conversation: str
    gaps: tuple[float, ...]
    wrong: bool
    kind: str = ""
    tokens: int = 0
    read_ms: float = 0.0
    """What the target took for the prompt; the others are without it."""
    judge_ms: float = 0.0
    plain_ms: float = 0.0
    exact_ms: float = 0.0

    def value(self, kind: Statistic) -> float:
        """The value of the statistic, to compare with a threshold."""
        return statistic_of(kind, self.gaps)


@dataclass(frozen=True, slots=True)
class Rate:
    """Errors among the answers that passed."""

    passes: int
    errors: int
    of: int
    corrected: int = 0
    """Answers that did not pass, and of which the gate would keep the beginning."""

    @property
    def share(self) -> float:
        """The share of answers that passed."""
        return self.passes / self.of if self.of else 0.0

    @property
    def rate(self) -> float:
        """The share of the passed answers that are wrong."""
        return self.errors / self.passes if self.passes else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The confidence interval of the error rate."""
        return interval(self.errors, self.passes) if self.passes else (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of one threshold on the part that proves."""

    tolerance: float
    found: Rate
    bound: float
    holds: bool


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The result of a calibration: a rule, or the reason why there is none."""

    rule: Rule | None
    missing: str
    tried: list[Tried] = field(default_factory=list)
    auroc: float = 0.5
    aurocs: dict[str, float] = field(default_factory=dict)
    held_out: Rate = Rate(0, 0, 0)
    all_passes: Rate = Rate(0, 0, 0)
    """The result if every answer of the reporting part passed; a random choice would have the same error rate."""
    by_kind: dict[str, Rate] = field(default_factory=dict)
    counts: tuple[int, int, int] = (0, 0, 0)


def parts_of(seen: Sequence[Observation], salt: str = "") -> tuple[list[Observation], ...]:
    """Three parts of about the same size; each conversation is in only one of them."""
    order = sorted({one.conversation for one in seen}, key=lambda name: sha256((salt + name).encode()).digest())
    place = {name: number % 3 for number, name in enumerate(order)}
    return tuple([one for one in seen if place[one.conversation] == part] for part in range(3))


def rate_at(seen: Sequence[Observation], rule: Rule) -> Rate:
    """How many answers pass by a rule, and how many of those are wrong."""
    passed = [one for one in seen if one.value(rule.statistic) <= rule.tolerance]
    return Rate(len(passed), sum(one.wrong for one in passed), len(seen))


def verdicts_at(seen: Sequence[Observation], rule: Rule) -> Rate:
    """The same, and how many of the others the gate would correct."""
    corrected = sum(decide(one.gaps, one.tokens, rule).verdict is AnswerVerdict.CORRECT for one in seen)
    return replace(rate_at(seen, rule), corrected=corrected)


def auroc(seen: Sequence[Observation], kind: Statistic) -> float:
    """The chance that a wrong answer has a higher value of the statistic than a right one."""
    ranked = sorted(((one.value(kind), one.wrong) for one in seen), key=lambda one: one[0])
    wrong = sum(is_wrong for _, is_wrong in ranked)
    right = len(ranked) - wrong
    if not wrong or not right:
        return 0.5
    return _rank_sum(ranked) / (wrong * right)


def _rank_sum(ranked: Sequence[tuple[float, bool]]) -> float:
    """The number of pairs of a wrong and a right answer in which the wrong one has the higher value; equal values count
    as a half.
    """
    total, below, start = 0.0, 0, 0
    while start < len(ranked):
        end = start
        while end < len(ranked) and ranked[end][0] == ranked[start][0]:
            end += 1
        wrong = sum(is_wrong for _, is_wrong in ranked[start:end])
        right = end - start - wrong
        total += wrong * (below + right / 2)
        below, start = below + right, end
    return total


def roc(seen: Sequence[Observation], kind: Statistic) -> list[tuple[float, float, float]]:
    """For each threshold: the share of right answers and of wrong answers that pass."""
    wrong = sum(one.wrong for one in seen)
    right = len(seen) - wrong
    values = sorted({one.value(kind) for one in seen})
    points = [(value, rate_at(seen, Rule(kind, value))) for value in values]
    return [
        (value, (found.passes - found.errors) / max(1, right), found.errors / max(1, wrong)) for value, found in points
    ]


def calibrate(seen: Sequence[Observation], max_error: float, confidence: float = 0.95, salt: str = "") -> Calibrated:
    """Find the loosest rule that the second part proves."""
    fit, prove, report = parts_of(seen, salt)
    counts = (len(fit), len(prove), len(report))
    need = trials_needed(0, max_error, confidence)
    if len(prove) < need:
        return Calibrated(None, _too_few(need, max_error, confidence, len(prove), len(seen)), counts=counts)
    aurocs: dict[str, float] = {kind: auroc(fit, kind) for kind in STATISTICS}
    kind = max(STATISTICS, key=lambda one: (aurocs[one], -STATISTICS.index(one)))
    errors = sum(one.wrong for one in fit)
    if max_error * len(fit) < errors < len(fit) and not _tells(aurocs[kind], errors, len(fit) - errors):
        text = f"scores do not tell wrong answers from right ones better than chance (AUROC {aurocs[kind]:.2f})"
        return Calibrated(None, text, auroc=aurocs[kind], aurocs=aurocs, counts=counts)
    tried = _prove(prove, _thresholds(fit, prove, kind, max_error, confidence), kind, max_error, confidence)
    held = [one for one in tried if one.holds]
    if not held:
        return Calibrated(None, _why_none(tried, max_error, confidence), tried, aurocs[kind], aurocs, counts=counts)
    rule = Rule(kind, held[-1].tolerance)
    kinds = sorted({one.kind for one in report})
    return Calibrated(
        rule,
        "",
        tried,
        aurocs[kind],
        aurocs,
        held_out=verdicts_at(report, rule),
        all_passes=Rate(len(report), sum(one.wrong for one in report), len(report)),
        by_kind={name: verdicts_at([one for one in report if one.kind == name], rule) for name in kinds},
        counts=counts,
    )


def _tells(area: float, wrong: int, right: int) -> bool:
    """Whether an area under the curve is above 0.5 by more than chance (the normal bound of Mann and Whitney)."""
    spread = sqrt((wrong + right + 1) / (12 * wrong * right))
    return area - 1.645 * spread > 0.5


def _thresholds(
    fit: Sequence[Observation], prove: Sequence[Observation], kind: Statistic, max_error: float, confidence: float
) -> list[float]:
    """The thresholds to try, the strictest first. The choice does not use which answers of the proving
    part are wrong.
    """
    values = sorted(one.value(kind) for one in fit)
    places = sorted({round(step * (len(values) - 1) / THRESHOLDS) for step in range(THRESHOLDS + 1)})
    grid = sorted({values[place] + MARGIN for place in places})
    needs = [trials_needed(spare, max_error, confidence) for spare in range(SPARE_ERRORS, -1, -1)]
    for need in needs:
        enough = [one for one in grid if rate_at(prove, Rule(kind, one)).passes >= need]
        if enough and (need == needs[-1] or _promises(fit, Rule(kind, enough[0]), max_error)):
            return enough
    return []


def _promises(fit: Sequence[Observation], rule: Rule, max_error: float) -> bool:
    """Whether the error rate of this threshold is low enough in the part that chooses."""
    return rate_at(fit, rule).rate <= max_error


def _prove(
    prove: Sequence[Observation], grid: Sequence[float], kind: Statistic, max_error: float, confidence: float
) -> list[Tried]:
    tried: list[Tried] = []
    for tolerance in grid:
        found = rate_at(prove, Rule(kind, tolerance))
        bound = upper_bound(found.errors, found.passes, confidence)
        tried.append(Tried(tolerance, found, bound, bound <= max_error))
        if bound > max_error:
            break
    return tried


def _too_few(need: int, max_error: float, confidence: float, have: int, given: int) -> str:
    return (
        f"{max_error:.0%} at {confidence:.0%} takes {need} passes without an error in the part that proves; it has "
        f"{have} answers: give about {3 * need - given} more prompts, or twice that"
    )


def _why_none(tried: Sequence[Tried], max_error: float, confidence: float) -> str:
    if not tried:
        need = trials_needed(0, max_error, confidence)
        return (
            f"no threshold passes the {need} answers that {max_error:.0%} at {confidence:.0%} takes: give more prompts"
        )
    first = tried[0]
    needed = trials_needed(first.found.errors, max_error, confidence)
    return (
        f"the strictest threshold passes {first.found.passes} answers, {first.found.errors} of them wrong: the rate "
        f"may be {first.bound:.1%}, above {max_error:.0%}; with so many errors it takes {needed} passes"
    )
