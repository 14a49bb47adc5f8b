"""Decides whether an answer is kept, by the gaps of its tokens and the terms of its request. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final, Literal

from twd.wire.job import AnswerVerdict

Statistic = Literal["token", "window", "mean", "quantile"]
STATISTICS: Final[tuple[Statistic, ...]] = ("token", "window", "mean", "quantile")
WINDOW: Final = 16
"""The number of tokens in a window of the "window" statistic, which takes the worst window's mean gap."""
QUANTILE: Final = 0.95
KEEP_MIN: Final = 0.1
"""An answer is rejected if a smaller share of its tokens would be kept."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which statistic is compared, and with which tolerance."""

    statistic: Statistic = "token"
    tolerance: float = 0.0

    @property
    def stop_above(self) -> float | None:
        """Scoring may stop after a gap above this; None if all gaps count."""
        return self.tolerance if self.statistic == "token" else None


EXACT: Final = Rule()
"""Every token must be the target's own choice."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The rules for one request."""

    rules: Mapping[str, Rule] = field(default_factory=dict)
    """The rule of each member. Without a rule, every token must be the target's own choice."""
    hold: int = 0
    """A piece is sent only when this many tokens after it are judged, too; 0: only the whole answer is sent."""
    ask: int = 1
    retries: int = 1
    patience_s: float = 20.0
    """A member that sends nothing for this many seconds has failed."""
    in_words: bool = False
    """The judge gets a prompt and replies with a word; it does not score tokens."""
    fail_open: bool = False

    def rule_of(self, member: str) -> Rule:
        """The rule of a member."""
        return self.rules.get(member, EXACT)


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on an answer, and how many of its tokens are kept."""

    verdict: AnswerVerdict
    keep: int
    score: float
    unlike: int
    """How many of the kept tokens are not the target's own choice."""


def statistic_of(kind: Statistic, gaps: Sequence[float]) -> float:
    """One number for the gaps of an answer; higher means that its tokens fit worse."""
    if not gaps:
        return 0.0
    match kind:
        case "token":
            return max(gaps)
        case "mean":
            return _worst_window(gaps, len(gaps))
        case "quantile":
            return sorted(gaps)[ceil(QUANTILE * len(gaps)) - 1]
        case "window":
            return _worst_window(gaps, min(WINDOW, len(gaps)))


def _worst_window(gaps: Sequence[float], width: int) -> float:
    total = worst = sum(gaps[:width])
    for come, gone in zip(gaps[width:], gaps, strict=False):
        total += come - gone
        worst = max(worst, total)
    return min(worst / width, max(gaps))  # rounded, a mean may be above all of its numbers


def decide(gaps: Sequence[float], tokens: int, rule: Rule, said: int = 0) -> Decision:
    """Judge an answer of `tokens` tokens. `gaps` has one number for each scored token, and one for the end if that was
    scored. Tokens that were not scored are refused. The `said` tokens were sent already and are kept in any case.
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
    """How many tokens of a growing text may be sent: those with at least `hold` judged tokens after them, if all fit;
    else 0.
    """
    if statistic_of(rule.statistic, gaps) > rule.tolerance:
        return 0
    return max(0, len(gaps) - hold)


def _unlike(gaps: Sequence[float]) -> int:
    return sum(gap > 0.0 for gap in gaps)
