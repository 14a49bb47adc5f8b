"""Sets of units that pack into bytes."""

from hypothesis import given
from hypothesis import strategies as st

from twd.pieces.bitmap import Bitmap


@given(st.integers(1, 300), st.data())
def test_a_bitmap_is_a_set(length: int, data: st.DataObject) -> None:
    some = data.draw(st.sets(st.integers(0, length - 1)))
    made = Bitmap.of(length, some)
    assert (set(made), made.count) == (some, len(some))
    again = Bitmap(length, bytes(made.data))
    assert set(again) == some
    for index in list(some):
        again.discard(index)
    assert not again.count
    assert not any(again.data)


@given(st.integers(1, 70), st.binary(max_size=12))
def test_bytes_that_anybody_may_have_written_set_nothing_beyond_the_end(length: int, data: bytes) -> None:
    made = Bitmap(length, data)
    assert made.count == len(list(made)) <= length
    assert length not in made
    assert -1 not in made


def test_it_packs_as_bittorrent_does() -> None:
    assert bytes(Bitmap.of(10, [0, 9]).data) == b"\x80\x40"
    assert Bitmap.full(10).complete
