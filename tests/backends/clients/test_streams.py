"""Lines and events come out the same, whatever pieces the bytes come in."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.backends.clients.streams import EventParser, LineSplitter, TooLong

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b""))


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    """The bytes in pieces."""
    places = sorted({0, len(raw), *(place % (len(raw) + 1) for place in cuts)})
    return [raw[a:b] for a, b in pairwise(places)]


@given(st.lists(st.tuples(LINES, ENDS)), LINES, st.lists(st.integers(0, 1000), max_size=30))
def test_lines_do_not_depend_on_the_pieces(lines: list[tuple[bytes, bytes]], tail: bytes, cuts: list[int]) -> None:
    raw = b"".join(line + end for line, end in lines) + tail
    wanted = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    splitter = LineSplitter()
    found = [line for piece in cut(raw, cuts) for line in splitter.feed(piece)]
    assert [*found, splitter.rest()] == wanted


@given(st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=8), ENDS, st.lists(st.integers(0, 2000), max_size=30))
def test_events_do_not_depend_on_the_pieces(events: list[list[bytes]], end: bytes, cuts: list[int]) -> None:
    raw = b": hello" + end
    for number, data in enumerate(events):
        raw += b"id: %d%s" % (number, end) + b"".join(b"data: " + line + end for line in data) + end
    parser = EventParser()
    found = [event for piece in cut(raw, cuts) for event in parser.feed(piece)]
    assert found + parser.finish() == [b"\n".join(data) for data in events]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_are_survived(pieces: list[bytes]) -> None:
    parser = EventParser()
    found = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    assert sum(map(len, found)) <= sum(map(len, pieces)), "nothing is made up"


def test_fields_as_the_standard_has_them() -> None:
    parser = EventParser()
    assert parser.feed(b"event: x\ndata:a\ndata: b\ndata\ndata:  c\nretry: 3\n\n\n\ndata: d\n\ndatax: no\n\n") == [
        b"a\nb\n\n c",
        b"d",
    ]
    assert parser.feed(b"data: last") == []
    assert parser.finish() == [b"last"]


def test_lines_and_events_have_an_end() -> None:
    splitter = LineSplitter(limit=10)
    assert splitter.feed(b"0123456789\n") == [b"0123456789"]
    with pytest.raises(TooLong):
        splitter.feed(b"01234567890")
    parser = EventParser(limit=30)
    with pytest.raises(TooLong):
        parser.feed(5 * b"data: 12345678\n")
