"""Text streams: any chunking shows the same text, cut at the stop string that completes first."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.chat.text import Detokenizer, StopHit

SMALL_ALPHABET = ["a", "b", "é", "日", "🙂"]


def stream_of(pieces: list[bytes], stops: list[str]) -> Detokenizer:
    return Detokenizer(lambda token: pieces[token], stops)


def shown_by(pieces: list[bytes], stops: list[str]) -> tuple[str, StopHit | None]:
    stream = stream_of(pieces, stops)
    shown = "".join(stream.feed([token]) for token in range(len(pieces)))
    return shown + stream.finish(), stream.hit


def cut_by_definition(text: str, stops: list[str]) -> tuple[str, str | None]:
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end - len(stop)], stop
    return text, None


def token_that_completes(pieces: list[bytes], length: int) -> int:
    """The first token after which the incremental text is at least `length` characters long."""
    stream = stream_of(pieces, [])
    seen = 0
    for token in range(len(pieces)):
        seen += len(stream.feed([token]))
        if seen >= length:
            return token
    return len(pieces) - 1


@given(
    pieces=st.lists(st.binary(max_size=5) | st.sampled_from([c.encode() for c in SMALL_ALPHABET]), max_size=20),
    stops=st.lists(st.text(st.sampled_from([*SMALL_ALPHABET, "\ufffd"]), min_size=1, max_size=4), max_size=4),
    data=st.data(),
)
def test_any_chunking_shows_the_whole_text_cut_at_the_first_stop(
    pieces: list[bytes], stops: list[str], data: st.DataObject
) -> None:
    expected, stop = cut_by_definition(b"".join(pieces).decode("utf-8", "replace"), stops)
    stream = stream_of(pieces, stops)
    shown, at = "", 0
    while at < len(pieces):
        step = data.draw(st.integers(1, len(pieces) - at))
        shown += stream.feed(range(at, at + step))
        assert expected.startswith(shown)
        at += step
    assert shown + stream.finish() == expected
    assert (stream.hit.stop if stream.hit else None) == stop
    if stream.hit:
        assert stream.hit.index == token_that_completes(pieces, len(expected) + len(stream.hit.stop))


@given(text=st.text(max_size=30), cuts=st.lists(st.integers(0, 100), max_size=8))
def test_characters_are_never_split(text: str, cuts: list[int]) -> None:
    raw = text.encode("utf-8", "replace")
    borders = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    pieces = [raw[start:end] for start, end in itertools.pairwise(borders)]
    stream = stream_of(pieces, [])
    parts = [stream.feed([token]) for token in range(len(pieces))]
    assert "".join(parts) == raw.decode()
    assert stream.finish() == ""


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "hit"),
    [
        ([b"one ", b"EN", b"D two"], ["END"], "one ", StopHit("END", 2)),
        ([b"a", b"ab", b"c"], ["aab", "abc"], "", StopHit("aab", 1)),
        ([b"abcd"], ["abcd", "bc"], "a", StopHit("bc", 0)),
        ([b"xabc"], ["bc", "abc", "c"], "x", StopHit("abc", 0)),
        ([b"\xe6\x97", b"\xa5\xe6", b"\x9c\xac!"], ["日本"], "", StopHit("日本", 2)),
        ([b"\xe6\x97", b"x"], [], "\ufffdx", None),
        ([b"x\xe6\x97"], [], "x\ufffd", None),
        ([b"half a st"], ["stop"], "half a st", None),
        ([b"", b"a", b"", b"\n\n", b""], ["\n\n"], "a", StopHit("\n\n", 3)),
        ([b"\xff"], ["\ufffd"], "", StopHit("\ufffd", 0)),
        ([b"a\xe6"], ["\ufffd"], "a", StopHit("\ufffd", 0)),
        ([b"text"], [""], "text", None),
        ([], ["stop"], "", None),
    ],
)
def test_known_streams(pieces: list[bytes], stops: list[str], shown: str, hit: StopHit | None) -> None:
    assert shown_by(pieces, stops) == (shown, hit)


def test_only_what_may_be_a_stop_is_held_back() -> None:
    stream = stream_of([b"hello s", b"t", b"ay"], ["stop"])
    assert (stream.feed([0]), stream.held) == ("hello ", "s")
    assert (stream.feed([1]), stream.held) == ("", "st")
    assert (stream.feed([2]), stream.held) == ("stay", "")


def test_nothing_comes_after_a_stop() -> None:
    stream = stream_of([b"a.", b"b"], ["."])
    assert stream.feed([0, 1]) == "a"
    assert stream.feed([1]) == ""
    assert stream.finish() == ""
    assert stream.hit == StopHit(".", 0)


def test_stops_that_nearly_match_for_long_hold_back_only_the_longest_start() -> None:
    stream = stream_of([b"a" * 10], ["a" * length + "b" for length in range(1, 60)])
    assert stream.feed([0] * 500) == "a" * (5000 - 59)
    assert stream.finish() == "a" * 59
