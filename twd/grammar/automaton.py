"""Follows a program byte by byte, all ways at once, and remembers every step it has taken.

A frame is a position and the set of frames below it: what comes after its rule returns. A state is a set of
frames that stand at bytes, tokens or ACCEPT. Equal sets get equal numbers, so a step is computed once and then
looked up; and because calls to one rule share one set, ambiguity costs little where stacks would double.
"""

from collections import defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from twd.grammar.program import GrammarProgram
from twd.grammar.rules import SymbolKind, bad_grammar

Frames = frozenset[int]
States = NDArray[np.int32]

DEAD = 0
_BELOW_BITS = 32
_BELOW_MASK = (1 << _BELOW_BITS) - 1
_ACCEPT = 0
_STATES_CROWD = 10_000
_SETS_CROWD = 100_000
_EFFORT_MAX = 200_000
"""The most symbols entered in one call; about one microsecond each."""
_LOOKS_PER_EFFORT = 16


class Automaton:
    """The states of one grammar met so far. For one thread."""

    def __init__(self, program: GrammarProgram) -> None:
        self._program = program
        self._effort = 0
        self._sets: list[Frames] = []
        self._set_numbers: dict[Frames, int] = {}
        self._states: list[Frames] = []
        self._state_numbers: dict[Frames, int] = {}
        self._closed: dict[Frames, int] = {}
        self._bytes_of: dict[int, bytes] = {}
        self._steps = np.full((64, program.class_count), -1, dtype=np.int32)
        self._add_state(frozenset())
        self._steps[DEAD] = DEAD
        self.start = self._start()

    @property
    def crowded(self) -> bool:
        """Return whether the cache is so large that a new automaton is better."""
        return len(self._states) > _STATES_CROWD or len(self._sets) > _SETS_CROWD

    def accepts(self, state: int) -> bool:
        """Return whether the text may end in this state."""
        return _ACCEPT in self._states[state]

    def goes_on(self, state: int) -> bool:
        """Return whether any text may follow in this state."""
        return len(self._states[state]) > self.accepts(state)

    def next_bytes(self, state: int) -> bytes:
        """The bytes that may come next; none, too, where tokens may come that are more than their bytes."""
        kinds, values = self._program.kinds, self._program.values
        classes = 0
        for frame in self._states[state]:
            top = frame >> _BELOW_BITS
            if kinds[top] is SymbolKind.TOKEN:
                return b""
            classes |= values[top] if kinds[top] is SymbolKind.BYTES else 0
        found = self._bytes_of.get(classes)
        if found is None:
            found = self._bytes_of[classes] = self._program.bytes_of(classes)
        return found

    def only_condition(self, state: int) -> int | None:
        """The token condition that must be met next, where nothing else may follow."""
        tops = [frame >> _BELOW_BITS for frame in self._states[state]]
        if len(tops) != 1 or self._program.kinds[tops[0]] is not SymbolKind.TOKEN:
            return None
        return self._program.values[tops[0]]

    def after(self, state: int, data: bytes) -> int:
        """The state after these bytes; DEAD where they do not fit."""
        self._effort = 0
        for byte_class in self._program.byte_class[np.frombuffer(data, dtype=np.uint8)].tolist():
            if state == DEAD:
                break
            state = self._step(state, byte_class)
        return state

    def step_all(self, states: States, data: NDArray[np.uint8]) -> States:
        """For each state the one after its byte."""
        classes = self._program.byte_class[data]
        following: States = self._steps[states, classes]
        unknown = following < 0
        if unknown.any():
            pairs = states[unknown].astype(np.int64) << 8 | classes[unknown]
            for pair in set(pairs.tolist()):
                self._step(pair >> 8, pair & 0xFF)
            following = self._steps[states, classes]
        return following

    def token_conditions(self, state: int) -> list[int]:
        """The token conditions that may come next."""
        tops = (frame >> _BELOW_BITS for frame in self._states[state])
        return [self._program.values[top] for top in tops if self._program.kinds[top] is SymbolKind.TOKEN]

    def after_token(self, state: int, met: Iterable[int], otherwise: int) -> int:
        """The state after a token that meets these conditions, or whose bytes lead to the state `otherwise`."""
        wanted = set(met)
        kinds, values = self._program.kinds, self._program.values
        kernel = set(self._states[otherwise])
        for frame in self._states[state]:
            top = frame >> _BELOW_BITS
            if kinds[top] is SymbolKind.TOKEN and values[top] in wanted:
                kernel |= self._follow(frame)
        return self._close(frozenset(kernel))

    def restart_effort(self) -> None:
        """Reset the work limit for a new call."""
        self._effort = 0

    def _start(self) -> int:
        bottom = self._number_of(frozenset([_ACCEPT]))
        calls: defaultdict[int, set[int]] = defaultdict(set)
        unit = self._program.unit_of[self._program.root]
        calls[unit] |= self._sets[bottom]
        tops = {_ACCEPT} if self._program.may_be_empty[self._program.root] else set()
        self._call(calls, tops)
        return self._state_of(tops)

    def _step(self, state: int, byte_class: int) -> int:
        known = int(self._steps[state, byte_class])
        if known >= 0:
            return known
        kinds, values = self._program.kinds, self._program.values
        kernel: set[int] = set()
        self._spend(len(self._states[state]) // _LOOKS_PER_EFFORT)
        for frame in self._states[state]:
            top = frame >> _BELOW_BITS
            if kinds[top] is SymbolKind.BYTES and values[top] >> byte_class & 1:
                kernel |= self._follow(frame)
        following = self._close(frozenset(kernel))
        self._steps[state, byte_class] = following
        return following

    def _follow(self, frame: int) -> Frames:
        """What comes after the symbol at the frame's position: the next one, or what waits below."""
        following = (frame >> _BELOW_BITS) + 1
        below = frame & _BELOW_MASK
        if self._program.kinds[following] is SymbolKind.END:
            return self._sets[below]
        return frozenset((following << _BELOW_BITS | below,))

    def _close(self, kernel: Frames) -> int:
        """The state of frames at any position: rules are called until all frames stand at bytes, tokens or ACCEPT."""
        known = self._closed.get(kernel)
        if known is not None:
            return known
        program = self._program
        tops: set[int] = set()
        calls: defaultdict[int, set[int]] = defaultdict(set)
        seen, todo = set(kernel), list(kernel)
        while todo:
            frame = todo.pop()
            position = frame >> _BELOW_BITS
            if program.kinds[position] is not SymbolKind.RULE:
                tops.add(frame)
                continue
            rule = program.values[position]
            following = self._follow(frame)
            calls[program.unit_of[rule]] |= following
            if program.may_be_empty[rule]:
                todo += following - seen
                seen |= following
        self._call(calls, tops)
        self._closed[kernel] = number = self._state_of(tops)
        return number

    def _call(self, calls: defaultdict[int, set[int]], tops: set[int]) -> None:
        """Enter the called units, callers before callees, each once with all that waits for its return."""
        units = sorted(calls)
        while units:
            unit = heappop(units)
            below = self._number_of(frozenset(calls[unit]))
            self._spend(len(calls[unit]) + len(self._program.starts[unit]))
            for start in self._program.starts[unit]:
                for callee in self._enter(start, below, unit, calls, tops):
                    heappush(units, callee)

    def _enter(
        self, position: int, below: int, unit: int, calls: defaultdict[int, set[int]], tops: set[int]
    ) -> list[int]:
        """Walk one alternative up to its first symbol that cannot be empty; returns newly called units."""
        program = self._program
        found = []
        while program.kinds[position] is SymbolKind.RULE:
            rule = program.values[position]
            callee = program.unit_of[rule]
            if callee != unit:
                if callee not in calls:
                    found.append(callee)
                calls[callee] |= self._follow(position << _BELOW_BITS | below)
            if not program.may_be_empty[rule]:
                return found
            position += 1
        if program.kinds[position] is not SymbolKind.END:
            tops.add(position << _BELOW_BITS | below)
        return found

    def _spend(self, effort: int) -> None:
        self._effort += effort
        if self._effort > _EFFORT_MAX:
            raise bad_grammar("The grammar is too ambiguous to follow; make its alternatives differ earlier.")

    def _state_of(self, tops: set[int]) -> int:
        """Frames at one position become one, above all that was below them."""
        below: defaultdict[int, list[int]] = defaultdict(list)
        for frame in tops:
            below[frame >> _BELOW_BITS].append(frame & _BELOW_MASK)
        return self._add_state(frozenset(top << _BELOW_BITS | self._merged(sets) for top, sets in below.items()))

    def _merged(self, sets: list[int]) -> int:
        if len(sets) == 1:
            return sets[0]
        return self._number_of(frozenset().union(*(self._sets[number] for number in sets)))

    def _number_of(self, frames: Frames) -> int:
        number = self._set_numbers.setdefault(frames, len(self._sets))
        if number == len(self._sets):
            self._sets.append(frames)
        return number

    def _add_state(self, frames: Frames) -> int:
        number = self._state_numbers.setdefault(frames, len(self._states))
        if number == len(self._states):
            self._states.append(frames)
            if number == len(self._steps):
                self._steps = np.concatenate([self._steps, np.full_like(self._steps, -1)])
        return number
