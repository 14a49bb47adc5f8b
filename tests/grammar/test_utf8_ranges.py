"""Byte range sequences match exactly the characters they stand for."""

from hypothesis import given
from hypothesis import strategies as st

from twd.grammar.utf8_ranges import LAST_CODE_POINT, inverted, utf8_sequences

BORDERS = [0, 1, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xD800, 0xDFFF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
CODE_POINT = st.one_of(
    st.integers(0, LAST_CODE_POINT),
    st.sampled_from(BORDERS).flatmap(lambda border: st.integers(max(0, border - 2), min(LAST_CODE_POINT, border + 2))),
)


def matches(sequences: list[list[tuple[int, int]]], data: bytes) -> int:
    """How many of the sequences match these bytes."""
    fitting = (sequence for sequence in sequences if len(sequence) == len(data))
    return sum(all(low <= byte <= high for byte, (low, high) in zip(data, s, strict=True)) for s in fitting)


@given(CODE_POINT, CODE_POINT, st.lists(CODE_POINT, min_size=1, max_size=30))
def test_a_range_matches_its_characters_once_and_no_others(one: int, other: int, probes: list[int]) -> None:
    low, high = sorted([one, other])
    sequences = utf8_sequences([(low, high)])
    for probe in [low, high, *probes]:
        if not 0xD800 <= probe <= 0xDFFF:
            assert matches(sequences, chr(probe).encode()) == (low <= probe <= high)


def test_everything_takes_few_sequences() -> None:
    assert len(utf8_sequences([(0, LAST_CODE_POINT)])) == 9


@given(st.lists(st.tuples(CODE_POINT, CODE_POINT).map(sorted).map(tuple), max_size=5), CODE_POINT)
def test_inversion_is_all_the_rest_but_nul(ranges: list[tuple[int, int]], probe: int) -> None:
    inside = any(low <= probe <= high for low, high in ranges)
    outside = any(low <= probe <= high for low, high in inverted(ranges))
    assert outside == (not inside and probe > 0)
