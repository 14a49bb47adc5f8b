"""Beginnings of token sequences: the hash by which a draft says which text it continues, and how much two share."""

from collections.abc import Iterable, Sequence

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


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading tokens two sequences share; found by halves, since comparing slices is fast."""
    one, other = list(one), list(other)
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:
        return limit
    low, high = 0, limit  # equal before `low`, unequal before `high`
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
