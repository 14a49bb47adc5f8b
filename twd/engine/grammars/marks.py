"""Marks around what a grammar governs: found in free text byte by byte, and made a part of the grammar's end."""

from collections.abc import Mapping, Sequence

from twd.engine.grammars.rules import EMPTY, Chain, Choice, Expr, OneToken, Ref, Repeat, Text

_GAP_MAX = 4


def bounded(rules: Mapping[str, Expr], ends: bytes, end: int | None, *, rest: bool = False) -> dict[str, Expr]:
    """The same rules with the closing mark behind them, a control token or text, and room around what they made.

    `rest`: nothing closes them, and what stands before them are line breaks and blanks, as behind a thought."""
    inside, room = "between the marks", Ref("space", "marks") if "space" in rules else EMPTY
    if rest:
        gap = Repeat(Choice((Text(b"\n"), Text(b" "))), 0, _GAP_MAX)
        return {**rules, inside: rules["root"], "root": Chain((gap, Ref(inside, "marks")))}
    closing: Expr = Text(ends) if end is None else OneToken(frozenset([end]), False)
    return {**rules, inside: rules["root"], "root": Chain((room, Ref(inside, "marks"), room, closing))}


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
