"""Rules made ready to run: dead ends cut away, endless ones refused, everything numbered."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twd.grammar.rules import Body, OneToken, RuleTable, Symbol, SymbolKind, bad_grammar

_NO_BYTE = Symbol(SymbolKind.BYTES, 0)


@dataclass(frozen=True, slots=True)
class GrammarProgram:
    """Positions hold symbols; each alternative of a rule is a run of positions that ends with END.

    Position 0 holds ACCEPT, which stands below the root. A unit is a rule, or rules that may turn into one another
    without consuming or returning; units are numbered so that callers come before whom they call.
    """

    kinds: list[SymbolKind]
    values: list[int]
    unit_of: list[int]
    starts: list[list[int]]
    may_be_empty: list[bool]
    byte_class: NDArray[np.uint8]
    class_count: int
    tokens: list[OneToken]
    root: int = 0

    def bytes_of(self, classes: int) -> bytes:
        """All bytes of a set of classes, ascending."""
        of_byte: list[int] = self.byte_class.tolist()
        return bytes(byte for byte in range(256) if classes >> of_byte[byte] & 1)


def build(table: RuleTable) -> GrammarProgram:
    """Check the rules and lay them out; a BYTES value becomes a set of byte classes (bit n: class n)."""
    bodies = _finite(table)
    empty = _nullable(bodies)
    units = _units(table.names, bodies, empty)
    kinds, values = [SymbolKind.ACCEPT], [0]
    starts: list[list[int]] = [[] for _ in range(max(units) + 1)]
    byte_class, class_count, class_set = _byte_classes(bodies)
    for number, body in enumerate(bodies):
        for alternative in body:
            starts[units[number]].append(len(kinds))
            kinds += [symbol.kind for symbol in alternative] + [SymbolKind.END]
            values += [class_set[s.value] if s.kind is SymbolKind.BYTES else s.value for s in alternative] + [0]
    return GrammarProgram(kinds, values, units, starts, empty, byte_class, class_count, table.tokens)


def possible(table: RuleTable) -> bool:
    """Return whether any text matches the rules."""
    return _ending(table)[0]


def _ending(table: RuleTable) -> list[bool]:
    """Return the rules that can end."""
    return _derivable(table.bodies, lambda symbol: symbol != _NO_BYTE)


def _finite(table: RuleTable) -> list[Body]:
    """Without the alternatives that could never come to an end."""
    ending = _ending(table)
    if not ending[0]:
        raise bad_grammar(f"Rule '{table.names[0]}' matches nothing: every way through it goes on for ever.")

    def can_end(symbol: Symbol) -> bool:
        return ending[symbol.value] if symbol.kind is SymbolKind.RULE else symbol != _NO_BYTE

    return [[run for run in body if all(map(can_end, run))] for body in table.bodies]


def _nullable(bodies: list[Body]) -> list[bool]:
    return _derivable(bodies, lambda symbol: False)


def _derivable(bodies: list[Body], terminal: Callable[[Symbol], bool]) -> list[bool]:
    """Which rules have an alternative of nothing but good terminals and such rules."""
    found = [False] * len(bodies)
    missing: list[int] = []
    waiting: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    ready: list[int] = []
    for rule, body in enumerate(bodies):
        for run in body:
            rules = [symbol.value for symbol in run if symbol.kind is SymbolKind.RULE]
            if not all(terminal(symbol) for symbol in run if symbol.kind is not SymbolKind.RULE):
                continue
            for needed in rules:
                waiting[needed].append((rule, len(missing)))
            missing.append(len(rules))
            if not rules:
                ready.append(rule)
    while ready:
        rule = ready.pop()
        if found[rule]:
            continue
        found[rule] = True
        for owner, run_number in waiting[rule]:
            missing[run_number] -= 1
            if not missing[run_number]:
                ready.append(owner)
    return found


def _units(names: list[str], bodies: list[Body], empty: list[bool]) -> list[int]:
    """The unit of each rule; raises where a rule calls itself before it consumes anything."""
    calls = [list(_calls_at_start(body, empty)) for body in bodies]
    unit_of = _components([[callee for callee, _ in found] for found in calls])
    for rule, found in enumerate(calls):
        for callee, is_last in found:
            if unit_of[callee] == unit_of[rule] and not is_last:
                raise bad_grammar(f"Rule '{names[rule]}' calls itself before it consumes anything (left recursion).")
    return unit_of


def _calls_at_start(body: Body, empty: list[bool]) -> Iterator[tuple[int, bool]]:
    """Rules called before a byte is consumed, and whether nothing stands behind the call."""
    for run in body:
        for index, symbol in enumerate(run):
            if symbol.kind is not SymbolKind.RULE:
                break
            yield symbol.value, index == len(run) - 1
            if not empty[symbol.value]:
                break


def _components(edges: list[list[int]]) -> list[int]:
    """Strongly connected components, numbered so that every edge leads to the same or a higher number (Tarjan)."""
    order: dict[int, int] = {}
    lowest = [0] * len(edges)
    component = [-1] * len(edges)
    open_nodes: list[int] = []
    done = 0
    for start in range(len(edges)):
        path = [] if start in order else [(start, iter(edges[start]))]
        while path:
            node, rest = path[-1]
            if node not in order:
                order[node] = lowest[node] = len(order)
                open_nodes.append(node)
            following = next(rest, None)
            if following is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    _close(open_nodes, component, node, done)
                    done += 1
            elif following not in order:
                path.append((following, iter(edges[following])))
            elif component[following] < 0:
                lowest[node] = min(lowest[node], order[following])
    return [done - 1 - number for number in component]


def _close(open_nodes: list[int], component: list[int], node: int, number: int) -> None:
    while component[node] < 0:
        component[open_nodes.pop()] = number


class _Classes(NamedTuple):
    of_byte: NDArray[np.uint8]
    number: int
    of_set: dict[int, int]


def _byte_classes(bodies: list[Body]) -> _Classes:
    """Bytes that no rule tells apart share a class; and each byte set as a set of classes."""
    used = {symbol.value for body in bodies for run in body for symbol in run if symbol.kind is SymbolKind.BYTES}
    sets = sorted(used | {0})
    members = _bits([one.to_bytes(32, "little") for one in sets])
    numbers: dict[bytes, int] = {}
    of_byte = np.array([numbers.setdefault(column.tobytes(), len(numbers)) for column in members.T], dtype=np.uint8)
    first_of_class = [int(np.argmax(of_byte == number)) for number in range(len(numbers))]
    classes = np.packbits(members[:, first_of_class], axis=1, bitorder="little")
    of_set = {one: int.from_bytes(row.tobytes(), "little") for one, row in zip(sets, classes, strict=True)}
    return _Classes(of_byte, len(numbers), of_set)


def _bits(rows: list[bytes]) -> NDArray[np.uint8]:
    packed = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), 32)
    return np.unpackbits(packed, axis=1, bitorder="little")
