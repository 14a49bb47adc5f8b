"""What a broker sends is understood however it is cut, and refused where it makes no sense."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.bus.nats.reader import FRAME_BYTES_MAX, LINE_BYTES_MAX, BadFrame, NatsFrameReader

Heard = list[Any]


def reader_of(heard: Heard) -> NatsFrameReader:
    return NatsFrameReader(lambda *message: heard.append(message), heard.append)


words = st.binary(min_size=1, max_size=12).map(lambda raw: raw.hex().encode())
payloads = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"MSG a 1 5\r\n", b"PING\r\n", b"\r"])
messages = st.tuples(st.integers(0, 2**40), words, st.just(b"") | words, payloads, st.none() | st.binary(max_size=30))
lines = st.sampled_from([b"PING", b"PONG", b"+OK", b"-ERR 'Something'", b'INFO {"a":1}', b""])


def written(frame: Any) -> bytes:
    if isinstance(frame, bytes):
        return frame + b"\r\n"
    number, subject, reply, payload, headers = frame
    between = b" " + reply + b" " if reply else b" "
    start = b"%b %d%b" % (subject, number, between)
    if headers is None:
        return b"MSG %b%d\r\n%b\r\n" % (start, len(payload), payload)
    return b"HMSG %b%d %d\r\n%b%b\r\n" % (start, len(headers), len(headers) + len(payload), headers, payload)


@given(st.lists(messages | lines, max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_frames_are_the_same_however_they_are_cut(frames: list[Any], cuts: list[int]) -> None:
    stream = b"".join(written(frame) for frame in frames)
    heard: Heard = []
    reader = reader_of(heard)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for begin, end in itertools.pairwise(edges):
        reader.feed(stream[begin:end])
    assert heard == frames


def test_byte_by_byte() -> None:
    frames = [b"PING", (7, b"a.b", b"_INBOX.x", b"line\r\nline", None), (8, b"c", b"", b"", b"NATS/1.0 503\r\n\r\n")]
    heard: Heard = []
    reader = reader_of(heard)
    for byte in b"".join(written(frame) for frame in frames):
        reader.feed(bytes((byte,)))
    assert heard == frames


def test_a_big_message_waits_until_it_is_whole() -> None:
    heard: Heard = []
    reader = reader_of(heard)
    payload = bytes(range(256)) * 8192
    stream = written((1, b"a", b"", payload, None)) + b"PING\r\n"
    for at in range(0, len(stream), 65536):
        assert heard == []
        reader.feed(stream[at : at + 65536])
    assert heard == [(1, b"a", b"", payload, None), b"PING"]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"MSG a 1 x\r\n",
        b"MSG a 1\r\n",
        b"MSG\t\r\nMSG \r\n",
        b"MSG a b 1\r\nx\r\n",
        b"MSG a 1 r s 1\r\nx\r\n",
        b"MSG a 1 -3\r\n",
        b"MSG a 1 1\r\nxyz\r\n",
        b"HMSG a 1 5 3\r\nabc\r\n",
        b"HMSG a 1 3\r\nabc\r\n",
        b"MSG a 1 %d\r\n" % (FRAME_BYTES_MAX + 1),
        b"x" * (LINE_BYTES_MAX + 1),
    ],
)
def test_nonsense_is_refused(nonsense: bytes) -> None:
    with pytest.raises(BadFrame):
        reader_of([]).feed(nonsense)


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    try:
        reader_of([]).feed(b"MSG " + data)
    except BadFrame:
        return
