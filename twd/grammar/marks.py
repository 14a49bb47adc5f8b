"""Marks around what a grammar governs: found in free text byte by byte, and made a part of the grammar's end."""

from collections.abc import Mapping, Sequence
from typing import Final

from twd.grammar.rules import EMPTY, Alternation, Concatenation, Expr, Ref, Repeat, Terminal

THOUGHT: Final = b"\xff"
"""Stands for a thought, of which rules say nothing."""
_GAP_MAX = 4
_INSIDE: Final = "between the marks"


def between(rules: Mapping[str, Expr], closing: Expr) -> dict[str, Expr]:
    """The same rules with the closing mark behind them, and room around what they made where there is a rule for it."""
    room = Ref("room", "marks") if "room" in rules else EMPTY
    return {**rules, _INSIDE: rules["root"], "root": Concatenation((room, Ref(_INSIDE, "marks"), room, closing))}


def behind(rules: Mapping[str, Expr], opening: Expr | None) -> dict[str, Expr]:
    """The same rules behind line breaks and blanks, as they stand behind a thought.

    `opening`: the mark of a thought that may come first. The thought itself is no part of the rules: a byte that no
    text has stands for it."""
    at_once = Ref(_INSIDE, "marks")
    answer = Concatenation((Repeat(Alternation((Terminal(b"\n"), Terminal(b" "))), 0, _GAP_MAX), at_once))
    root = answer if opening is None else Alternation((at_once, Concatenation((opening, Terminal(THOUGHT), answer))))
    return {**rules, _INSIDE: rules["root"], "root": root}


def borders(mark: bytes) -> list[int]:
    """For each length of the mark's beginning: the longest shorter one that it ends with."""
    found = [0, 0]
    for end in range(1, len(mark)):
        length = found[end]
        while length and mark[length] != mark[end]:
            length = found[length]
        found.append(length + (mark[length] == mark[end]))
    return found


def matched(mark: bytes, border: Sequence[int], length: int, data: bytes) -> tuple[int, int | None]:
    """How much of the mark stands at the end of the data, where `length` of it stood before; and where the data goes on
    behind the mark, if it was completed in it."""
    if not length and mark[0] not in data:
        return 0, None
    for place, byte in enumerate(data):
        while length and mark[length] != byte:
            length = border[length]
        length += mark[length] == byte
        if length == len(mark):
            return 0, place + 1
    return length, None
