"""Nonsense from members of a ring closes the link, and is named."""

import contextlib
import threading

import pytest

from tests.ring.fake_slices import FakeSlice, fake_text
from tests.ring.faults.broken_rings import last_word, raw, reason, works
from tests.ring.rings import PLAIN, WAIT_S, Ring, fake_ring
from tests.ring.test_fake_rings import PROMPT, say, spec
from tests.waiting import wait_until
from twd.ring.frames import (
    HEADER,
    MAGIC,
    VERSION,
    FrameError,
    LinkBroken,
    Open,
    PassFrame,
    PassResults,
    RingMessage,
    VoidEpochs,
    WindowItem,
    encode,
)
from twd.ring.links import RingLink
from twd.wire.failures import TwdError
from twd.wire.ring import FrameFault

CLOSES = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", FrameFault.GARBAGE),
    "another version": (HEADER.pack(MAGIC, VERSION + 1, 8, 2, 0) + b"\x90\x90", FrameFault.VERSION),
    "too long": (HEADER.pack(MAGIC, VERSION, 7, 2**31, 0), FrameFault.TOO_LONG),
    "unknown kind": (HEADER.pack(MAGIC, VERSION, 77, 1, 0) + b"\x90", FrameFault.MALFORMED),
    "states where none belong": (HEADER.pack(MAGIC, VERSION, 7, 1, 64), FrameFault.TOO_LONG),
    "not for this link": (encode(PassResults(1)), FrameFault.UNEXPECTED),
    "half a frame": (encode(VoidEpochs(0, 1))[:-1], FrameFault.CUT),
}


@pytest.mark.parametrize("what", CLOSES)
def test_a_frame_that_is_none_closes_the_link_and_is_named(what: str) -> None:
    data, fault = CLOSES[what]
    with fake_ring(1, PLAIN) as ring:
        connection = raw(ring, 0, ring.wire())
        connection.transport.send(data)
        if fault is FrameFault.CUT:
            connection.transport.hang_up()
        else:
            assert isinstance(last_word(connection), LinkBroken)
        reason(ring.stages[0])
        assert ring.stages[0].faults[-1][0] is fault
        connection.transport.free()
        works(ring)


def test_home_may_only_void_at_stages_that_are_not_the_first(ring: Ring) -> None:
    hand = ring.connect()
    hand.send(VoidEpochs(0, 1), 1)
    hand.send(PassFrame(1, [WindowItem(0, 1, 0, [1])]), 1)
    reason(ring.stages[1])
    assert ring.stages[1].faults[-1][0] is FrameFault.UNEXPECTED
    works(ring)


def test_more_passes_than_were_granted_close_the_link(ring: Ring) -> None:
    hand = ring.connect()
    engine = ring.stages[0].server.engine
    assert isinstance(engine, FakeSlice)
    go = threading.Event()

    def hold(rows: object) -> None:
        assert go.wait(WAIT_S)

    engine.before = hold
    hand.send(Open(0, spec()))
    with contextlib.suppress(TwdError):
        for number in range(hand.welcomes[0].credits + 1):
            hand.send(PassFrame(number, [WindowItem(0, 1, 0, [1])]))
    reason(ring.stages[0])
    go.set()
    assert ring.stages[0].faults[-1][0] is FrameFault.TOO_MANY
    engine.before = lambda rows: None
    works(ring)


def test_a_pass_that_has_grown_too_long_to_send_closes_the_link_alone(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = ring.connect()

    def send(link: RingLink, message: RingMessage, payload: bytes = b"") -> None:
        if link.peer == "next" and isinstance(message, PassFrame):
            raise FrameError(FrameFault.TOO_LONG, "it is too long")
        original(link, message, payload)

    original = RingLink.send
    monkeypatch.setattr(RingLink, "send", send)
    hand.send(Open(0, spec()))
    hand.send(PassFrame(1, [WindowItem(0, 1, 0, [1])]))
    assert "too long" in reason(ring.stages[0])
    monkeypatch.undo()
    works(ring)


def test_a_void_of_no_slot_is_counted_and_nothing_else(ring: Ring) -> None:
    hand = ring.connect()
    hand.send(VoidEpochs(4000, 1), 1)
    wait_until(lambda: ring.stages[1].faults, "the fault is noted")
    assert ring.stages[1].faults[-1][0] is FrameFault.OUT_OF_RANGE
    hand.send(Open(99, spec()))
    hand.send(Open(0, spec()))
    assert say(hand, PROMPT, 3) == fake_text(PROMPT, 3)
    hand.close()
