"""Whether an answer stands: a pure function of how well its tokens fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

from twd.wire.job import AnswerVerdict

Statistic = Literal["token", "window", "mean", "quantile"]
STATISTICS: Final[tuple[Statistic, ...]] = ("token", "window", "mean", "quantile")
WINDOW: Final = 16
"""Tokens whose mean gap counts, where the worst window decides."""
QUANTILE: Final = 0.95
KEEP_MIN: Final = 0.1
"""An answer of which less than this part would stand is rejected."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is compared, and with what."""

    statistic: Statistic = "token"
    tolerance: float = 0.0

    @property
    def stop_above(self) -> float | None:
        """The gap behind which no more need be scored; None where all gaps count."""
        return self.tolerance if self.statistic == "token" else None


EXACT: Final = Rule()
"""Every token must be the one that the target would have picked."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an answer, and how many of its tokens stand."""

    verdict: AnswerVerdict
    keep: int
    score: float
    unlike: int
    """Of the tokens that stand, those that the target would not have picked."""


def statistic_of(kind: Statistic, gaps: Sequence[float]) -> float:
    """One number for how badly the worst, or all, of some tokens fit."""
    if not gaps:
        return 0.0
    match kind:
        case "token":
            return max(gaps)
        case "mean":
            return sum(gaps) / len(gaps)
        case "quantile":
            return sorted(gaps)[ceil(QUANTILE * len(gaps)) - 1]
        case "window":
            return _worst_window(gaps)


def _worst_window(gaps: Sequence[float]) -> float:
    width = min(WINDOW, len(gaps))
    total = worst = sum(gaps[:width])
    for come, gone in zip(gaps[width:], gaps, strict=False):
        total += come - gone
        worst = max(worst, total)
    return worst / width


def decide(gaps: Sequence[float], tokens: int, rule: Rule, said: int = 0) -> Decision:
    """Judge an answer of so many tokens. `gaps` has one number for each that was scored, and one for the end if that
    was; what was not scored is refused. Text that has left already (`said` tokens) stands in any case.
    """
    score = statistic_of(rule.statistic, gaps)
    if len(gaps) >= tokens and score <= rule.tolerance:
        return Decision(AnswerVerdict.APPROVE, tokens, score, _unlike(gaps[:tokens]))
    first = next((place for place, gap in enumerate(gaps) if gap > rule.tolerance), len(gaps))
    keep = max(said, min(first, tokens))
    unlike = _unlike(gaps[:keep])
    if not said and (not keep or keep < KEEP_MIN * tokens):
        return Decision(AnswerVerdict.REJECT, 0, score, 0)
    return Decision(AnswerVerdict.CORRECT, keep, score, unlike)


def may_leave(gaps: Sequence[float], rule: Rule, hold: int) -> int:
    """How many tokens of a text that still grows may leave: so many were judged behind them, and all fit."""
    if statistic_of(rule.statistic, gaps) > rule.tolerance:
        return 0
    return max(0, len(gaps) - hold)


def _unlike(gaps: Sequence[float]) -> int:
    return sum(gap > 0.0 for gap in gaps)
