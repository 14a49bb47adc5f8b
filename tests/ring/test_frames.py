"""Frames: what is written is read, in whatever pieces it comes; nothing else is, and what is too long is not read."""

import contextlib
import io

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.ring.frames import (
    HEADER,
    MAGIC,
    VERSION,
    Frame,
    FrameError,
    ItemOutcome,
    LinkClosedError,
    LinkProbe,
    Open,
    PassFrame,
    PassResults,
    RingFrameReader,
    SessionSpec,
    VoidEpochs,
    WindowItem,
    are_numbers,
    encode,
    pack_states,
    payload_max,
    unpack_states,
)
from twd.wire.job import Sampling, TokenLogprob
from twd.wire.ring import FrameFault, StateFormat

small = st.integers(0, 4000)
tokens = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=40)
items = st.builds(WindowItem, small, small, small, tokens, small, st.booleans())
logprobs = st.builds(TokenLogprob, token=small, text=st.text(max_size=8), logprob=st.floats(-50, 0))
outcomes = st.builds(ItemOutcome, small, small, small, tokens, small, st.lists(logprobs, max_size=2))
messages = st.one_of(
    st.builds(PassFrame, small, st.lists(items, max_size=4), st.lists(outcomes, max_size=2)),
    st.builds(PassResults, small, st.lists(outcomes, max_size=4)),
    st.builds(VoidEpochs, small, small),
    st.builds(LinkProbe, small),
    st.builds(Open, small, st.builds(SessionSpec, st.just(Sampling(top_k=40)), small, small)),
)


def read_all(data: bytes, chunk: int, limit: int = 0) -> list[Frame]:
    stream = io.BytesIO(data)
    reader = RingFrameReader(lambda size: stream.read(min(size, chunk)), limit)
    frames = []
    while True:
        try:
            frames.append(reader.read())
        except LinkClosedError:
            return frames


@given(st.lists(messages, max_size=6), st.integers(1, 200))
def test_what_is_written_is_read_in_pieces_of_any_size(sent: list, chunk: int) -> None:  # type: ignore[type-arg]
    assert [frame.message for frame in read_all(b"".join(map(encode, sent)), chunk)] == sent


@given(st.binary(max_size=400), st.integers(1, 60))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes, chunk: int) -> None:
    with contextlib.suppress(FrameError):
        read_all(noise, chunk)


@given(messages, st.data())
def test_a_frame_with_any_byte_changed_is_refused_or_is_another_message(message: object, data: st.DataObject) -> None:
    frame = bytearray(encode(message))  # type: ignore[arg-type]
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(FrameError):
        read_all(bytes(frame), 1000, 100)


def header(kind: int, header_len: int, payload_len: int, magic: bytes = MAGIC, version: int = VERSION) -> bytes:
    return HEADER.pack(magic, version, kind, header_len, payload_len)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (header(7, 10, 0, magic=b"GE"), FrameFault.GARBAGE),
        (header(7, 10, 0, version=2), FrameFault.VERSION),
        (header(99, 10, 0), FrameFault.MALFORMED),
        (header(8, 10_000, 0), FrameFault.TOO_LONG),
        (header(7, 2**32 - 1, 0), FrameFault.TOO_LONG),
        (header(7, 10, 101), FrameFault.TOO_LONG),
        (header(8, 3, 1), FrameFault.TOO_LONG),
        (header(8, 3, 0) + b"\xc1\xc1\xc1", FrameFault.MALFORMED),
        (header(8, 3, 0) + msgspec.msgpack.encode([1, -1]), FrameFault.MALFORMED),
        (encode(VoidEpochs(1, 1))[:-1], FrameFault.CUT),
        (header(8, 3, 0)[:5], FrameFault.CUT),
    ],
)
def test_each_thing_that_can_be_wrong_has_its_name(data: bytes, fault: FrameFault) -> None:
    with pytest.raises(FrameError) as refused:
        read_all(data, 1000, 100)
    assert refused.value.fault is fault


def test_a_frame_that_is_too_long_is_refused_before_it_comes() -> None:
    asked: list[int] = []

    def receive(size: int) -> bytes:
        asked.append(size)
        return header(7, 1 << 19, 2**31) if len(asked) == 1 else pytest.fail("it was read on")

    with pytest.raises(FrameError, match="allowed"):
        RingFrameReader(receive, 1 << 20).read()


def test_a_message_of_a_later_version_with_more_fields_is_read() -> None:
    body = msgspec.msgpack.encode([3, 9, "something new"])
    assert read_all(header(8, len(body), 0) + body, 100)[0].message == VoidEpochs(3, 9)


@pytest.mark.parametrize("states_as", list(StateFormat))
def test_states_come_out_as_they_went_in(states_as: StateFormat) -> None:
    states = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float16).astype(np.float32)
    payload = pack_states(states, states_as)
    assert len(payload) == payload_max(5, 8, states_as)
    out = unpack_states(payload, 5, 8, states_as)
    assert out.dtype == np.float32
    assert np.array_equal(out, states)
    with pytest.raises(FrameError):
        unpack_states(payload[:-1], 5, 8, states_as)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_seen_wherever_it_stands(bad: float) -> None:
    for at in range(0, 12, 5):
        states = np.full((3, 4), 3e38, np.float32)
        assert are_numbers(states)
        states.flat[at] = bad
        assert not are_numbers(states)
    both = np.array([[np.inf, -np.inf]], np.float32)
    assert not are_numbers(both)


def test_a_token_costs_few_bytes_beside_its_states() -> None:
    states = np.zeros((1, 576), np.float32)
    frame = encode(PassFrame(100_000, [WindowItem(3, 70, 4000, [49_000])]), pack_states(states))
    assert len(frame) <= 1.1 * states.nbytes
    assert len(encode(PassResults(100_000, [ItemOutcome(3, 70, 4000, [49_000], 1)]))) < 64
