"""JSON itself as rules: values, strings, numbers, literals, and where white space may stand."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby

from twd.grammar.rules import EMPTY, Alternation, CharClass, Concatenation, Expr, Ref, Repeat, Terminal
from twd.grammar.utf8_ranges import inverted

NOTHING = Alternation(())
"""Matches no text."""

DIGIT = CharClass(((0x30, 0x39),))
_DIGIT_1_TO_9 = CharClass(((0x31, 0x39),))
_HEX = CharClass(((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)))
_HEX_BUT_D = CharClass(((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66)))
_UNPRINTED = ((0x00, 0x1F), (0x7F, 0x7F))
_QUOTE, _BACKSLASH = 0x22, 0x5C
_ESCAPED = {0x22: b'\\"', 0x5C: b"\\\\", 0x08: b"\\b", 0x0C: b"\\f", 0x0A: b"\\n", 0x0D: b"\\r", 0x09: b"\\t"}
PLAIN = inverted([*_UNPRINTED, (_QUOTE, _QUOTE), (_BACKSLASH, _BACKSLASH)])
"""Characters that need no escape in a string."""
_DIGITS_MAX = 16
_INDENT_MAX = 20
_BRANCHES_MAX = 30


def rule(name: str) -> Ref:
    """A mention of one of JSON's own rules, or of another rule that is surely there."""
    return Ref(name, "JSON")


def chain(*items: Expr) -> Concatenation:
    """A sequence."""
    return Concatenation(items)


def maybe(item: Expr) -> Repeat:
    """Optional."""
    return Repeat(item, 0, 1)


SPACE = rule("space")
VALUE = rule("value")
STRING = rule("string")
CHARACTER = rule("character")
ESCAPE = rule("escape")
INTEGER = rule("integer")
FRACTION = rule("fraction")


def separated(item: Expr) -> Concatenation:
    """A comma and an item behind it."""
    return chain(Terminal(b","), SPACE, item)


def enclosed(left: bytes, inside: Expr, right: bytes) -> Expr:
    """Brackets around something, or around nothing but white space where `inside` may be empty."""
    return chain(Terminal(left), SPACE, inside, Terminal(right))


def filled(items: Expr) -> Expr:
    """What stands between brackets when they are not empty."""
    return chain(items, SPACE)


def member(key: Expr, value: Expr) -> Concatenation:
    """One entry of an object; no line breaks before the value, in which small models lose their way."""
    return chain(key, Terminal(b":"), maybe(Terminal(b" ")), value)


def quoted(inside: Expr) -> Concatenation:
    """A string with this content."""
    return chain(Terminal(b'"'), inside, Terminal(b'"'))


def literal(value: object) -> Terminal:
    """Exactly this value."""
    return Terminal(json.dumps(value, ensure_ascii=False).encode())


def literals(values: Iterable[object]) -> Expr:
    """Any of these values; what they begin with alike is followed once."""
    return _prefix_tree(sorted({literal(value).data for value in values}))


def character(ranges: Iterable[tuple[int, int]]) -> Expr:
    """One character of these ranges as it is written inside a string."""
    kept = tuple(ranges)
    outside = inverted(kept)
    plain = inverted([*outside, *_UNPRINTED, (_QUOTE, _QUOTE), (_BACKSLASH, _BACKSLASH)])
    escapes = [Terminal(data) for code, data in _ESCAPED.items() if any(low <= code <= high for low, high in kept)]
    options: list[Expr] = [CharClass(plain)] if plain else []
    options += escapes
    return options[0] if len(options) == 1 else Alternation(tuple(options))


def key_other_than(owner: str, names: Iterable[str]) -> Iterator[tuple[str, Expr]]:
    """The rule `owner` for any string but these, and those below it: one for each way to begin like one of them."""
    yield owner, chain(Terminal(b'"'), rule(f"{owner} 0"))
    yield f"{owner} rest", chain(Repeat(CHARACTER, 0, None), Terminal(b'"'))
    begun = [(0, sorted(set(names)))]
    for number, (length, same) in enumerate(begun):
        longer = [name for name in same if len(name) > length]
        options: list[Expr] = [Terminal(b'"')] if len(longer) == len(same) else []
        groups = {first: list(group) for first, group in groupby(longer, key=lambda name: name[length])}
        for first, group in groups.items():
            options.append(chain(character([(ord(first), ord(first))]), rule(f"{owner} {len(begun)}")))
            begun.append((length + 1, group))
        others = character(inverted((ord(first), ord(first)) for first in groups))
        yield f"{owner} {number}", Alternation((*options, chain(others, rule(f"{owner} rest"))))


def json_rules() -> dict[str, Expr]:
    """JSON's own rules; numbers and indentation are bounded, so that no text runs away in them."""
    blank = CharClass(((0x09, 0x09), (0x20, 0x20)))
    low_half = chain(CharClass(((0x44, 0x44), (0x64, 0x64))), CharClass(((0x30, 0x37),)), Repeat(_HEX, 2, 2))
    code = chain(
        Terminal(b"u"), Alternation((chain(_HEX_BUT_D, Repeat(_HEX, 3, 3)), low_half))
    )  # No halves of surrogate pairs.
    escape = chain(
        Terminal(b"\\"), Alternation((CharClass(tuple((byte, byte) for byte in sorted(b'"\\/bfnrt'))), code))
    )
    exponent = chain(
        CharClass(((0x45, 0x45), (0x65, 0x65))), maybe(CharClass(((0x2B, 0x2B), (0x2D, 0x2D)))), Repeat(DIGIT, 1, 3)
    )
    entry = member(STRING, VALUE)
    constants = (Terminal(b"true"), Terminal(b"false"), Terminal(b"null"))
    return {
        "space": Alternation((EMPTY, Terminal(b" "), chain(Terminal(b"\n"), Repeat(blank, 0, _INDENT_MAX)))),
        "room": SPACE,
        "value": Alternation((rule("object"), rule("array"), STRING, rule("number"), *constants)),
        "object": enclosed(b"{", maybe(filled(chain(entry, Repeat(separated(entry), 0, None)))), b"}"),
        "array": enclosed(b"[", maybe(filled(chain(VALUE, Repeat(separated(VALUE), 0, None)))), b"]"),
        "string": quoted(Repeat(CHARACTER, 0, None)),
        "character": Alternation((CharClass(PLAIN), ESCAPE)),
        "escape": escape,
        "integer": chain(
            maybe(Terminal(b"-")),
            Alternation((Terminal(b"0"), chain(_DIGIT_1_TO_9, Repeat(DIGIT, 0, _DIGITS_MAX - 1)))),
        ),
        "fraction": chain(Terminal(b"."), Repeat(DIGIT, 1, _DIGITS_MAX)),
        "number": chain(INTEGER, maybe(FRACTION), maybe(exponent)),
    }


def _prefix_tree(sorted_texts: list[bytes], depth: int = 0) -> Expr:
    if len(sorted_texts) == 1 or depth == _BRANCHES_MAX:
        return Alternation(tuple(map(Terminal, sorted_texts)))
    shared = _shared_length(sorted_texts[0], sorted_texts[-1])
    rests = [text[shared:] for text in sorted_texts]
    options: list[Expr] = [EMPTY] if not rests[0] else []
    for _, group in groupby(filter(None, rests), key=lambda text: text[:1]):
        options.append(_prefix_tree(list(group), depth + 1))
    return chain(Terminal(sorted_texts[0][:shared]), Alternation(tuple(options)))


def _shared_length(left: bytes, right: bytes) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(left), len(right)))
