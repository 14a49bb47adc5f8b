"""The common form of all grammars: named rules over bytes, checked once and flattened for the automaton."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from twd.grammar.utf8_ranges import LAST_CODE_POINT, utf8_sequences
from twd.wire.failures import FailureCode, TwdError

SYMBOLS_MAX = 100_000
_UNFOLDED_MAX = 64


@dataclass(frozen=True, slots=True)
class Terminal:
    """Matches exactly these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CharClass:
    """One character out of inclusive code point ranges."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """Whatever the named rule matches; `place` says where it is mentioned."""

    name: str
    place: str


@dataclass(frozen=True, slots=True)
class Concatenation:
    """A sequence of expressions."""

    items: tuple["Expr", ...]


@dataclass(frozen=True, slots=True)
class Alternation:
    """A choice of expressions."""

    options: tuple["Expr", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repetition from `least` to `most` times; None: no limit."""

    item: "Expr"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class OneToken:
    """One whole token: of these, or with `negated` none of these."""

    ids: frozenset[int]
    negated: bool


Expr = Terminal | CharClass | Ref | Concatenation | Alternation | Repeat | OneToken

EMPTY = Concatenation(())
ANY_CHAR = CharClass(((1, LAST_CODE_POINT),))


def size(expr: Expr) -> int:
    """How much there is in an expression; rules that it mentions are not in it."""
    match expr:
        case Terminal(data):
            return 1 + len(data)
        case CharClass(ranges):
            return 1 + len(ranges)
        case Concatenation(parts) | Alternation(parts):
            return 1 + sum(map(size, parts))
        case Repeat(item, _, _):
            return 1 + size(item)
    return 1


class SymbolKind(IntEnum):
    """What stands at a position of a program."""

    ACCEPT = 0
    END = 1
    RULE = 2
    BYTES = 3
    TOKEN = 4


@dataclass(frozen=True, slots=True)
class Symbol:
    """A step of a rule: a set of bytes (bit n: byte n), a rule by number, or a token condition by number."""

    kind: SymbolKind
    value: int


Body = list[list[Symbol]]


@dataclass(frozen=True, slots=True)
class RuleTable:
    """Rules by number, each a list of alternatives; rule 0 is the root."""

    bodies: list[Body]
    names: list[str]
    tokens: list[OneToken]


def bad_grammar(message: str, field: str = "grammar") -> TwdError:
    """Return the error for a mistake in a grammar."""
    return TwdError(FailureCode.BAD_GRAMMAR, message, field)


def flattened(rules: Mapping[str, Expr], root: str) -> RuleTable:
    """Rules without nesting and repetition; raises where the grammar is too big or a rule is missing."""
    return _Flattening(rules).run(root)


class _Flattening:
    def __init__(self, rules: Mapping[str, Expr]) -> None:
        self._rules = rules
        self._table = RuleTable([], [], [])
        self._numbers: dict[str, int] = {}
        self._unvisited: list[str] = []
        self._characters: dict[CharClass, Symbol] = {}
        self._halves: dict[tuple[Symbol, int, bool], Symbol] = {}
        self._size = 0

    def run(self, root: str) -> RuleTable:
        if root not in self._rules:
            raise bad_grammar(f"The grammar has no rule '{root}', with which every text begins.")
        self._number(root, "")
        while self._unvisited:
            name = self._unvisited.pop()
            self._table.bodies[self._numbers[name]] = self._alternatives(self._rules[name], name)
        return self._table

    def _number(self, name: str, place: str) -> int:
        if name not in self._numbers:
            if name not in self._rules:
                raise bad_grammar(f"Grammar, {place}: there is no rule named '{name}'.")
            self._numbers[name] = self._reserve(name)
            self._unvisited.append(name)
        return self._numbers[name]

    def _reserve(self, name: str) -> int:
        self._table.bodies.append([])
        self._table.names.append(name)
        return len(self._table.bodies) - 1

    def _new_rule(self, body: Body, owner: str) -> Symbol:
        number = self._reserve(owner)
        self._table.bodies[number] = body
        return Symbol(SymbolKind.RULE, number)

    def _alternatives(self, expr: Expr, owner: str) -> Body:
        options = expr.options if isinstance(expr, Alternation) else (expr,)
        return [self._symbols(option, owner) for option in options]

    def _symbols(self, expr: Expr, owner: str) -> list[Symbol]:
        match expr:
            case Terminal(data):
                return self._counted([Symbol(SymbolKind.BYTES, 1 << byte) for byte in data])
            case CharClass():
                return self._counted([self._character(expr, owner)])
            case Ref(name, place):
                return self._counted([Symbol(SymbolKind.RULE, self._number(name, place))])
            case Concatenation(items):
                return [symbol for item in items for symbol in self._symbols(item, owner)]
            case Alternation((only,)):
                return self._symbols(only, owner)
            case Alternation():
                return self._counted([self._new_rule(self._alternatives(expr, owner), owner)])
            case Repeat(item, least, most):
                return self._repeated(self._symbols(item, owner), least, most, owner)
            case OneToken():
                self._table.tokens.append(expr)
                return self._counted([Symbol(SymbolKind.TOKEN, len(self._table.tokens) - 1)])

    def _counted(self, symbols: list[Symbol]) -> list[Symbol]:
        self._size += len(symbols)
        if self._size > SYMBOLS_MAX:
            message = f"The grammar unfolds to more than {SYMBOLS_MAX} symbols; ask for fewer repetitions or rules."
            raise bad_grammar(message)
        return symbols

    def _repeated(self, item: list[Symbol], least: int, most: int | None, owner: str) -> list[Symbol]:
        if len(item) > 1:
            item = [self._new_rule([item], owner)]
        required = self._exactly(item, least, owner)
        if most is None:
            more = Symbol(SymbolKind.RULE, self._reserve(owner))
            self._table.bodies[more.value] = [self._counted([*item, more]), []]
            return [*required, more]
        return required + self._up_to(item, most - least, owner)

    def _exactly(self, item: list[Symbol], times: int, owner: str) -> list[Symbol]:
        """item{times}; long ones are made of halves."""
        if times <= _UNFOLDED_MAX or not item:
            return self._counted(item * min(times, _UNFOLDED_MAX))
        key = (item[0], times // 2, True)
        if key not in self._halves:
            self._halves[key] = self._new_rule([self._exactly(item, times // 2, owner)], owner)
        return self._counted([self._halves[key]] * 2 + item * (times % 2))

    def _up_to(self, item: list[Symbol], times: int, owner: str) -> list[Symbol]:
        """item{0,times} in such a way that one text is never reached twice."""
        if not times or not item:
            return []
        key = (item[0], times, False)
        if key not in self._halves:
            self._halves[key] = self._new_rule(self._up_to_body(item, times, owner), owner)
        return self._counted([self._halves[key]])

    def _up_to_body(self, item: list[Symbol], times: int, owner: str) -> Body:
        if times <= _UNFOLDED_MAX:
            return [self._counted(item + self._up_to(item, times - 1, owner)), []]
        fewer = times // 2
        rest = self._up_to(item, times - fewer - 1, owner)
        return [self._up_to(item, fewer, owner), self._exactly(item, fewer + 1, owner) + rest]

    def _character(self, chars: CharClass, owner: str) -> Symbol:
        if chars not in self._characters:
            body = [[Symbol(SymbolKind.BYTES, _byte_set(pair)) for pair in run] for run in utf8_sequences(chars.ranges)]
            single = _union(run[0].value for run in body if len(run) == 1)
            longer = [self._counted(run) for run in body if len(run) > 1]
            short = [[Symbol(SymbolKind.BYTES, single)]] if single or not longer else []
            self._characters[chars] = self._new_rule(short + longer, owner) if longer else short[0][0]
        return self._characters[chars]


def _byte_set(pair: tuple[int, int]) -> int:
    low, high = pair
    return (1 << high + 1) - (1 << low)


def _union(sets: Iterable[int]) -> int:
    whole = 0
    for one in sets:
        whole |= one
    return whole
