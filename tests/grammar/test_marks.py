"""The mark is found wherever it stands, in whatever pieces the text comes."""

from hypothesis import given
from hypothesis import strategies as st

from twd.grammar.marks import borders, matched

LETTERS = st.sampled_from([b"a", b"b", b"<"])
TEXTS = st.lists(LETTERS, max_size=40).map(b"".join)
MARKS = st.lists(LETTERS, min_size=1, max_size=6).map(b"".join)


@given(MARKS, TEXTS, st.lists(st.integers(0, 40), max_size=6))
def test_a_mark_is_found_in_pieces_as_in_the_whole(mark: bytes, text: bytes, cuts: list[int]) -> None:
    ends = [*sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    border, length, start, found = borders(mark), 0, 0, None
    for end in ends:
        length, behind = matched(mark, border, length, text[start:end])
        if behind is not None:
            found = start + behind
            break
        start = end
    place = text.find(mark)
    assert found == (None if place < 0 else place + len(mark))


@given(MARKS, TEXTS)
def test_what_stands_at_the_end_is_the_longest_beginning_of_the_mark(mark: bytes, text: bytes) -> None:
    length, behind = matched(mark, borders(mark), 0, text)
    if behind is None:
        assert length == max(count for count in range(len(mark)) if text.endswith(mark[:count]))
