"""JSON strings and numbers as a schema bounds them."""

from collections.abc import Callable, Iterable
from decimal import Decimal

from twd.grammar.json.keywords import NothingFits, Schema, count_of, decimal_of, schema_error
from twd.grammar.json.numbers import NumberBound, decimals, integers
from twd.grammar.json.patterns import ALL, Write, pattern_rule
from twd.grammar.json.rules import CHARACTER, DIGIT, STRING, chain, character, maybe, quoted, rule
from twd.grammar.rules import Alternation, CharClass, Expr, Repeat, Terminal


def string_rule(schema: Schema, at: str) -> Expr:
    """A string by length, pattern or format."""
    content = string_content(schema, at)
    return STRING if content is None else quoted(content)


def string_content(schema: Schema, at: str, write: Write = character) -> Expr | None:
    """What a string by length, pattern or format holds; None for any."""
    least, most = count_of(schema, "minLength", at) or 0, count_of(schema, "maxLength", at)
    if most is not None and least > most:
        raise NothingFits(at, f"no string has at least {least} and at most {most} characters")
    if "pattern" in schema:
        if least or most is not None:
            raise schema_error(at, "'pattern' cannot be enforced together with a length; say the length in the pattern")
        return pattern_rule(str(schema["pattern"]), lambda message: schema_error(at, message), write)
    form, shortest, longest = _FORMATS.get(str(schema.get("format")), (None, 0, 0))
    if form is not None and least <= shortest and (most is None or longest <= most):
        return form
    if not least and most is None:
        return None
    return Repeat(CHARACTER if write is character else write(ALL), least, most)


def number_rule(schema: Schema, at: str, kind: str) -> Expr:
    """A number or integer between its bounds."""
    kind = "integer" if "multipleOf" in schema else kind
    low = _bound(schema, "minimum", "exclusiveMinimum", max, at)
    high = _bound(schema, "maximum", "exclusiveMaximum", min, at)
    if low.value is None and high.value is None:
        return rule(kind)
    least, most = _whole(low, 1), _whole(high, -1)
    if _is_empty(low, high) or (kind == "integer" and least is not None and most is not None and least > most):
        raise NothingFits(at, f"no number lies between {low.value} and {high.value}")
    return decimals(low, high) if kind == "number" else integers(least, most)


def _is_empty(low: NumberBound, high: NumberBound) -> bool:
    if low.value is None or high.value is None:
        return False
    return low.value > high.value or (low.value == high.value and (low.open or high.open))


def _whole(bound: NumberBound, inwards: int) -> int | None:
    """The nearest whole number inside a bound."""
    if bound.value is None:
        return None
    floor = int(bound.value.to_integral_value("ROUND_CEILING" if inwards > 0 else "ROUND_FLOOR"))
    return floor + inwards if bound.open and floor == bound.value else floor


def _bound(
    schema: Schema, closed: str, opened: str, tighter: Callable[[Decimal, Decimal], Decimal], at: str
) -> NumberBound:
    include, exclude = decimal_of(schema, closed, at), decimal_of(schema, opened, at)
    if schema.get(opened) is True:
        return NumberBound(include, open=True)
    if include is None or exclude is None:
        return NumberBound(exclude, open=True) if include is None else NumberBound(include)
    return NumberBound(exclude, open=True) if tighter(include, exclude) == exclude else NumberBound(include)


def _digits(count: int) -> Expr:
    return Repeat(DIGIT, count, count)


def _date() -> Expr:
    month = Alternation(
        (chain(Terminal(b"0"), CharClass(((0x31, 0x39),))), chain(Terminal(b"1"), CharClass(((0x30, 0x32),))))
    )
    day = Alternation(
        (
            chain(Terminal(b"0"), CharClass(((0x31, 0x39),))),
            chain(CharClass(((0x31, 0x32),)), DIGIT),
            chain(Terminal(b"3"), CharClass(((0x30, 0x31),))),
        )
    )
    return chain(_digits(4), Terminal(b"-"), month, Terminal(b"-"), day)


def _clock() -> Expr:
    """A time of day with its zone, as RFC 3339 writes it."""
    hour = Alternation((chain(CharClass(((0x30, 0x31),)), DIGIT), chain(Terminal(b"2"), CharClass(((0x30, 0x33),)))))
    sixty = chain(CharClass(((0x30, 0x35),)), DIGIT)
    zone = Alternation((Terminal(b"Z"), chain(CharClass(((0x2B, 0x2B), (0x2D, 0x2D))), hour, Terminal(b":"), sixty)))
    return chain(
        hour, Terminal(b":"), sixty, Terminal(b":"), sixty, maybe(chain(Terminal(b"."), Repeat(DIGIT, 1, 9))), zone
    )


def _date_and_time() -> dict[str, tuple[Expr, int, int]]:
    date, clock = _date(), _clock()
    return {"date": (date, 10, 10), "time": (clock, 9, 24), "date-time": (chain(date, Terminal(b"T"), clock), 20, 35)}


def _joined(parts: Iterable[int]) -> Expr:
    hexadecimal = CharClass(((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)))
    runs = [Repeat(hexadecimal, count, count) for count in parts]
    return chain(runs[0], *(chain(Terminal(b"-"), run) for run in runs[1:]))


_FORMATS: dict[str, tuple[Expr, int, int]] = {**_date_and_time(), "uuid": (_joined([8, 4, 4, 4, 12]), 36, 36)}
"""Formats that are enforced, and how short and long they are; any other is an annotation, as the standard has it. So is
one whose texts may be shorter or longer than a length beside it allows: that must be kept to."""
