"""Turns regular expressions into rules for the content of a JSON string."""

from collections.abc import Callable

from twd.grammar.json.rules import CHARACTER, chain, character
from twd.grammar.rules import EMPTY, Alternation, Concatenation, Expr, Repeat
from twd.grammar.utf8_ranges import LAST_CODE_POINT, inverted

Ranges = tuple[tuple[int, int], ...]
Write = Callable[[Ranges], Expr]
"""How one of these characters is written."""

ALL = inverted(())
_DEPTH_MAX = 32
_REPEAT_MAX = 10_000
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_NEWLINES: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_BLANK: Ranges = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
)
_DISPUTED_BLANK = (0xFEFF, 0xFEFF)
"""White space in JavaScript but not in Python: allowed neither for \\s nor for \\S."""
_CLASSES: dict[str, Ranges] = {
    "d": _DIGITS,
    "w": _WORD,
    "s": _BLANK,
    "D": inverted(_DIGITS),
    "W": inverted(_WORD),
    "S": inverted((*_BLANK, _DISPUTED_BLANK)),
}
_CONTROLS = {"n": 0x0A, "t": 0x09, "r": 0x0D, "f": 0x0C, "v": 0x0B}
_REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_NOT_A_NEWLINE = inverted(_NEWLINES)


def pattern_rule(pattern: str, fail: Callable[[str], Exception], write: Write = character) -> Expr:
    """Return the rule for strings with a match; as in JSON Schema, a pattern matches anywhere unless anchored."""
    return _Parser(pattern, fail, write).whole()


class _Parser:
    def __init__(self, pattern: str, fail: Callable[[str], Exception], write: Write) -> None:
        self._pattern = pattern
        self._fail = fail
        self._write = write
        self._at = 0
        self._depth = 0

    def whole(self) -> Expr:
        """All alternatives, each with its own anchors."""
        options = [self._anchored()]
        while self._took("|"):
            options.append(self._anchored())
        if self._peek():
            raise self._error(f"'{self._peek()}' cannot stand here")
        return Alternation(tuple(options))

    def _anchored(self) -> Expr:
        anything = Repeat(CHARACTER if self._write is character else self._write(ALL), 0, None)
        before = EMPTY if self._took("^") else anything
        inside = self._chain()
        after = EMPTY if self._took("$") else anything
        return chain(before, inside, after)

    def _choice(self) -> Expr:
        options = [self._chain()]
        while self._took("|"):
            options.append(self._chain())
        return Alternation(tuple(options))

    def _chain(self) -> Expr:
        items: list[Expr] = []
        while self._peek() not in ("", "|", ")", "$"):
            item = self._item()
            while (bounds := self._bounds()) is not None:
                item = Repeat(item, *bounds)
            items.append(item)
        return Concatenation(tuple(items))

    def _item(self) -> Expr:
        if self._took("("):
            return self._group()
        if self._took("["):
            return self._write(self._char_class())
        if self._took("."):
            return self._write(_NOT_A_NEWLINE)
        if self._peek() in ("^", "*", "+", "?", "{"):
            raise self._error(f"'{self._peek()}' cannot stand here")
        return self._write(self._single())

    def _group(self) -> Expr:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._error(f"groups are nested more than {_DEPTH_MAX} deep")
        if self._took("?") and not self._took(":"):
            raise self._error("of the '(?' forms only '(?:' is supported")
        inner = self._choice()
        if not self._took(")"):
            raise self._error("a group is not closed by ')', or an anchor stands inside one")
        self._depth -= 1
        return inner

    def _char_class(self) -> Ranges:
        negated = self._took("^")
        ranges: list[tuple[int, int]] = []
        while not self._took("]"):
            first = self._single()
            if self._peek() == "-" and self._peek(1) not in ("]", ""):
                self._at += 1
                first = self._range(first, self._single())
            ranges += first
        return inverted(ranges) if negated else tuple(ranges)

    def _range(self, low: Ranges, high: Ranges) -> Ranges:
        if not (_is_one(low) and _is_one(high) and low[0][0] <= high[0][0]):
            raise self._error("this is no range of characters")
        return ((low[0][0], high[0][0]),)

    def _single(self) -> Ranges:
        """One character or a class such as \\d."""
        found = self._peek()
        if not found:
            raise self._error("the pattern ends too early")
        self._at += 1
        if found != "\\":
            return _one(ord(found))
        kind = self._peek()
        self._at += 1
        if kind in _CLASSES:
            return _CLASSES[kind]
        if kind in _CONTROLS:
            return _one(_CONTROLS[kind])
        if kind in ("x", "u"):
            return self._hex(2 if kind == "x" else 4)
        if not kind or kind.isalnum():
            raise self._error(f"'\\{kind}' is not supported")
        return _one(ord(kind))

    def _hex(self, length: int) -> Ranges:
        digits = self._pattern[self._at : self._at + length]
        if len(digits) < length or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise self._error(f"{length} hexadecimal digits must follow here")
        self._at += length
        return _one(int(digits, 16))

    def _bounds(self) -> tuple[int, int | None] | None:
        bounds = _REPEATS.get(self._peek())
        if bounds is not None:
            self._at += 1
        elif self._took("{"):
            bounds = self._braces()
        if bounds is not None:
            self._took("?")
        return bounds

    def _braces(self) -> tuple[int, int | None]:
        end = self._pattern.find("}", self._at)
        least, comma, most = self._pattern[self._at : max(end, self._at)].partition(",")
        if end < 0 or not _is_number(least) or (most and not _is_number(most)):
            raise self._error("a repetition is written {2}, {2,} or {2,5}")
        upper = int(most) if most else None if comma else int(least)
        if int(least) > _REPEAT_MAX or (upper is not None and not int(least) <= upper <= _REPEAT_MAX):
            raise self._error(f"repetitions go from few to many, and to {_REPEAT_MAX} at most")
        self._at = end + 1
        return int(least), upper

    def _peek(self, ahead: int = 0) -> str:
        return self._pattern[self._at + ahead : self._at + ahead + 1]

    def _took(self, sign: str) -> bool:
        found = self._peek() == sign
        self._at += found
        return found

    def _error(self, message: str) -> Exception:
        return self._fail(f"pattern, character {self._at + 1}: {message}")


def _one(code_point: int) -> Ranges:
    return ((code_point, min(code_point, LAST_CODE_POINT)),)


def _is_one(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _is_number(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) <= 6
