"""The pieces of a vocabulary as a tree of arrays for each level, so that a grammar checks each shared prefix once."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twd.grammar.automaton import DEAD, Automaton, States

Numbers = NDArray[np.int32]


class _Level(NamedTuple):
    """The nodes that many bytes deep: where each hangs in the level above, by which byte, and the tokens that end."""

    parent: Numbers
    byte: NDArray[np.uint8]
    tokens: Numbers
    token_nodes: Numbers


class TokenTrie:
    """The tokens that have visible bytes; the rest can never follow a grammar by their text."""

    def __init__(self, tokens: Iterable[int], piece: Callable[[int], bytes]) -> None:
        pieces = sorted((data, token) for token in tokens if (data := piece(token)))
        self._levels = list(_levels(pieces))

    def mark_fitting(self, automaton: Automaton, state: int, able: NDArray[np.bool_]) -> None:
        """Set `able` for the tokens whose bytes the automaton accepts in this state."""
        automaton.restart_effort()
        states: States = np.array([state], dtype=np.int32)
        for level in self._levels:
            above = states[level.parent]
            alive = np.flatnonzero(above != DEAD)
            if not len(alive):
                return
            states = np.zeros(len(above), dtype=np.int32)
            states[alive] = automaton.step_all(above[alive], level.byte[alive])
            able[level.tokens[states[level.token_nodes] != DEAD]] = True


def _levels(pieces: list[tuple[bytes, int]]) -> Iterable[_Level]:
    """From sorted pieces: on each level, neighbours with the same parent and byte share a node."""
    lengths = np.array([len(data) for data, _ in pieces], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if pieces else lengths
    text = np.frombuffer(b"".join(data for data, _ in pieces), dtype=np.uint8)
    ids = np.array([token for _, token in pieces], dtype=np.int32)
    rows = np.arange(len(pieces))
    node = np.zeros(len(pieces), dtype=np.int32)
    for depth in range(int(lengths.max(initial=0))):
        deep = lengths[rows] > depth
        rows, parent = rows[deep], node[deep]
        byte = text[offsets[rows] + depth]
        fresh = np.ones(len(rows), dtype=bool)
        fresh[1:] = (parent[1:] != parent[:-1]) | (byte[1:] != byte[:-1])
        node = (np.cumsum(fresh) - 1).astype(np.int32)
        ends = lengths[rows] == depth + 1
        yield _Level(parent[fresh], byte[fresh], ids[rows[ends]], node[ends])
