"""A running hash of a token sequence: how a draft says which text it continues."""

from collections.abc import Iterable

_MASK = 2**53 - 1
EMPTY = 0x1B873593


def extend(prefix: int, tokens: Iterable[int]) -> int:
    """The hash of a sequence from the hash of its beginning and the tokens that follow."""
    for token in tokens:
        mixed = ((prefix ^ token) + 0x9E3779B97F4A7) * 0x2545F4914F6CDD1D
        prefix = (mixed ^ (mixed >> 29)) & _MASK
    return prefix


def prefix_hash(tokens: Iterable[int]) -> int:
    """The hash of a whole sequence."""
    return extend(EMPTY, tokens)
