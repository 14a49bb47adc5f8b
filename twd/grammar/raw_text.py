"""Rules for text between marks: without quotes and escapes, and without the mark that ends it."""

from collections.abc import Iterable

from twd.grammar.json.keywords import Schema
from twd.grammar.json.patterns import ALL, Ranges
from twd.grammar.json.rules import ESCAPE, PLAIN, STRING, chain, rule
from twd.grammar.json.scalars import string_content
from twd.grammar.json.schema import SchemaRules
from twd.grammar.rules import EMPTY, Alternation, CharClass, Concatenation, Expr, Ref, Repeat, Terminal
from twd.grammar.utf8_ranges import inverted


class Inexpressible(Exception):
    """Raised when the schema cannot be enforced for values in this notation."""


class RawText:
    """Texts in which `mark` does not stand, and JSON in whose strings it does not."""

    def __init__(self, rules: SchemaRules, mark: str) -> None:
        self._rules = rules
        self._sign = mark[0]
        self.any = without(rules, mark)
        """Return the rule for any text."""
        string = without(rules, mark, kept=PLAIN, others=[ESCAPE], end=Terminal(b'"'))
        rules.add("string", chain(Terminal(b'"'), string))
        rules.add("character", Alternation((CharClass(_but(PLAIN, self._sign)), ESCAPE)))

    def literal(self, text: str) -> Expr:
        """Return the rule for exactly this text."""
        if self._sign in text:
            raise Inexpressible
        return Terminal(text.encode())

    def string(self, schema: Schema, at: str) -> Expr | None:
        """What the schema says of a string; None where that is nothing."""
        content = string_content(schema, at, CharClass)
        if content is not None and self.may_write(content, self._sign):
            raise Inexpressible
        return content

    def json(self, schema: object, at: str) -> Expr:
        """A value as JSON."""
        written = self._rules.of(schema, at)
        if self.may_write(written, self._sign):
            raise Inexpressible
        return written

    def may_write(self, expr: Expr, sign: str) -> bool:
        """Whether the character may be written, but in those strings in which the mark is watched for."""
        waiting, seen = [expr], {STRING.name}
        while waiting:
            match waiting.pop():
                case Terminal(data):
                    if sign.encode() in data:
                        return True
                case CharClass(ranges):
                    if any(low <= ord(sign) <= high for low, high in ranges):
                        return True
                case Concatenation(parts) | Alternation(parts):
                    waiting += parts
                case Repeat(item):
                    waiting.append(item)
                case Ref(name) if name not in seen:
                    seen.add(name)
                    waiting.append(self._rules.named(name))
        return False


def without(
    rules: SchemaRules, mark: str, *, kept: Ranges = ALL, others: Iterable[Expr] = (), end: Expr = EMPTY
) -> Expr:
    """Any text of these characters in which the mark does not stand; `others` may stand in it, too."""
    owner, signs = rules.owner("without"), sorted(set(mark))
    for length in range(len(mark)):
        options = [end, *(chain(other, rule(f"{owner} 0")) for other in others)]
        for sign in (sign for sign in signs if any(low <= ord(sign) <= high for low, high in kept)):
            following = _matched(mark, mark[:length] + sign)
            if following < len(mark):
                options.append(chain(CharClass(((ord(sign), ord(sign)),)), rule(f"{owner} {following}")))
        options.append(chain(CharClass(_but(kept, *signs)), rule(f"{owner} 0")))
        rules.add(f"{owner} {length}", Alternation(tuple(options)))
    return rule(f"{owner} 0")


def _matched(mark: str, text: str) -> int:
    """How much of the mark stands at the end of the text."""
    return next(length for length in range(min(len(mark), len(text)), -1, -1) if text.endswith(mark[:length]))


def _but(kept: Ranges, *signs: str) -> Ranges:
    return inverted([*inverted(kept), *((ord(sign), ord(sign)) for sign in signs)])
