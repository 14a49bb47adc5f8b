"""Turns number ranges into rules over their digits."""

from dataclasses import dataclass
from decimal import Decimal

from twd.grammar.json.rules import DIGIT, NOTHING, chain, maybe
from twd.grammar.rules import EMPTY, Alternation, CharClass, Expr, Repeat, Terminal

_DIGITS_MAX = 16


@dataclass(frozen=True, slots=True)
class NumberBound:
    """A bound of a range; None: no bound."""

    value: Decimal | None = None
    open: bool = False


def integers(low: int | None, high: int | None) -> Expr:
    """Whole numbers from `low` to `high`, both included; without a bound, up to sixteen digits."""
    options: list[Expr] = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        options.append(chain(Terminal(b"-"), _naturals(least, None if low is None else -low)))
    if high is None or high >= 0:
        options.append(_naturals(max(low or 0, 0), high))
    return Alternation(tuple(options))


def decimals(low: NumberBound, high: NumberBound) -> Expr:
    """Numbers between two bounds, written without an exponent."""
    options: list[Expr] = []
    zero = NumberBound(Decimal(0))
    if low.value is None or low.value < 0:
        least = zero if high.value is None or high.value > 0 else NumberBound(-high.value, high.open)
        most = NumberBound() if low.value is None else NumberBound(-low.value, low.open)
        options.append(chain(Terminal(b"-"), _positives(least, most)))
    if high.value is None or high.value >= 0:
        options.append(_positives(low if low.value is not None and low.value >= 0 else zero, high))
    return Alternation(tuple(options))


def _naturals(low: int, high: int | None) -> Expr:
    """Natural numbers in a range, without leading zeros."""
    longest = len(str(high)) if high is not None else max(_DIGITS_MAX, len(str(low)))
    options = []
    for length in range(len(str(low)), longest + 1):
        least = max(low, 10 ** (length - 1) if length > 1 else 0)
        most = 10**length - 1 if high is None else min(high, 10**length - 1)
        if least <= most:
            options.append(_between(str(least), str(most)))
    return Alternation(tuple(options))


def _between(low: str, high: str) -> Expr:
    """Digit strings of one length in a range."""
    if not low:
        return EMPTY
    if low == "0" * len(low) and high == "9" * len(high):
        return _any(len(low), len(low))
    if low[0] == high[0]:
        return chain(Terminal(low[0].encode()), _between(low[1:], high[1:]))
    rest = len(low) - 1
    return Alternation(
        (
            chain(Terminal(low[0].encode()), _between(low[1:], "9" * rest)),
            chain(_digits(int(low[0]) + 1, int(high[0]) - 1), _any(rest, rest)),
            chain(Terminal(high[0].encode()), _between("0" * rest, high[1:])),
        )
    )


def _positives(low: NumberBound, high: NumberBound) -> Expr:
    """Non-negative numbers between a lower bound, which there is, and an upper one."""
    assert low.value is not None
    first, first_digits = _split(low.value)
    last, last_digits = _split(high.value) if high.value is not None else (None, "")
    if last == first:
        width = max(len(first_digits), len(last_digits), 1)
        return _with_fraction(first, first_digits.ljust(width, "0"), last_digits.ljust(width, "0"), low.open, high.open)
    options = [chain(Terminal(str(first).encode()), _fraction_above(first_digits, low.open))]
    if last is None or last > first:
        if last is None or last - 1 > first:
            options.append(chain(_naturals(first + 1, None if last is None else last - 1), _any_fraction()))
        if last is not None:
            options.append(chain(Terminal(str(last).encode()), _fraction_below(last_digits, high.open)))
        return Alternation(tuple(options))
    return NOTHING


def _with_fraction(whole: int, low: str, high: str, low_open: bool, high_open: bool) -> Expr:
    """Numbers of one whole part between two fractions of one length."""
    options = [chain(Terminal(b"."), _digits_between(low, high, low_open, high_open))]
    if not low.strip("0") and not low_open and (high.strip("0") or not high_open):
        options.append(EMPTY)
    return chain(Terminal(str(whole).encode()), Alternation(tuple(options)))


def _digits_between(low: str, high: str, low_open: bool, high_open: bool) -> Expr:
    if not low:
        return NOTHING if low_open or high_open else Repeat(Terminal(b"0"), 0, _DIGITS_MAX)
    if low[0] > high[0]:
        return NOTHING
    ends: tuple[Expr, ...] = ()
    if low[0] == high[0]:
        here = Terminal(low[0].encode())
        if not low[1:].strip("0") and not low_open and (high[1:].strip("0") or not high_open):
            ends = (here,)
        return Alternation((*ends, chain(here, _digits_between(low[1:], high[1:], low_open, high_open))))
    lower, upper = Terminal(low[0].encode()), Terminal(high[0].encode())
    return Alternation(
        (
            chain(lower, _digits_above(low[1:].rstrip("0"), low_open)),
            chain(_digits(int(low[0]) + 1, int(high[0]) - 1), _any(0, _DIGITS_MAX)),
            chain(upper, _digits_below(high[1:].rstrip("0"), high_open)),
        )
    )


def _fraction_above(low: str, is_open: bool) -> Expr:
    if not low and not is_open:
        return _any_fraction()
    return chain(Terminal(b"."), _digits_above(low, is_open, least=1))


def _digits_above(low: str, is_open: bool, least: int = 0) -> Expr:
    """Digits after the point at or above these, which do not end in 0."""
    if not low and is_open:
        return chain(Repeat(Terminal(b"0"), 0, _DIGITS_MAX), _digits(1, 9), _any(0, _DIGITS_MAX))
    if not low:
        return _any(least, _DIGITS_MAX)
    same = chain(Terminal(low[0].encode()), _digits_above(low[1:], is_open))
    return Alternation((same, chain(_digits(int(low[0]) + 1, 9), _any(0, _DIGITS_MAX))))


def _fraction_below(high: str, is_open: bool) -> Expr:
    if not high:
        return NOTHING if is_open else maybe(chain(Terminal(b"."), Repeat(Terminal(b"0"), 1, _DIGITS_MAX)))
    return maybe(chain(Terminal(b"."), _digits_below(high, is_open, least=1)))


def _digits_below(high: str, is_open: bool, least: int = 0) -> Expr:
    """Digits after the point at or below these, which do not end in 0."""
    if not high:
        return NOTHING if is_open else Repeat(Terminal(b"0"), least, _DIGITS_MAX)
    options: list[Expr] = [EMPTY] if not least else []
    options.append(chain(_digits(0, int(high[0]) - 1), _any(0, _DIGITS_MAX)))
    options.append(chain(Terminal(high[0].encode()), _digits_below(high[1:], is_open)))
    return Alternation(tuple(options))


def _any_fraction() -> Expr:
    return maybe(chain(Terminal(b"."), _any(1, _DIGITS_MAX)))


def _any(least: int, most: int) -> Expr:
    return Repeat(DIGIT, least, most)


def _digits(low: int, high: int) -> Expr:
    return CharClass(((0x30 + low, 0x30 + high),)) if low <= high else NOTHING


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part and the digits behind the point, without zeros at the end."""
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")
