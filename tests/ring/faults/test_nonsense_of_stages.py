"""Nonsense from the stage before is refused, and no other window suffers."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.ring.fake_slices import LAYERS, N_EMBD, FakeSlice
from tests.ring.faults.broken_rings import last_word, raw, reason
from tests.ring.rings import PLAIN, Ring, start_stage
from tests.ring.test_fake_rings import spec
from twd.ring.frames import (
    HEADER,
    MAGIC,
    VERSION,
    LinkBroken,
    LinkRole,
    Open,
    PassFrame,
    PassResults,
    RingFrameReader,
    RingMessage,
    WindowItem,
    encode,
    pack_states,
)
from twd.ring.trust import RingTrust, ring_nonce
from twd.stage.server import HeldSlice
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode
from twd.wire.ring import FrameFault, StateFormat


class Before:
    """The last stage alone; the test is its home and the stage before it."""

    def __init__(self) -> None:
        held = HeldSlice(ModelId("fake"), "f4ke", 4, LAYERS, LAYERS, True)
        self.stage = start_stage(held, FakeSlice(4, LAYERS, head=True), PLAIN)
        none = start_stage(HeldSlice(ModelId("fake"), "f4ke", 0, 4, LAYERS, False), FakeSlice(0, 4), PLAIN)
        self.ring = Ring([none, self.stage], PLAIN)
        none.server.close()
        nonce = ring_nonce()
        self.stage.server.wire(self.ring.wirings("alone", nonce)[1])
        trust = RingTrust("alone", nonce, encrypted=False)
        self.home = raw(self.ring, 1, trust)
        self.chain = raw(self.ring, 1, trust, LinkRole.CHAIN)

    def send(self, message: RingMessage, payload: bytes = b"") -> None:
        self.chain.transport.send(encode(message, payload))

    def verdicts(self) -> PassResults:
        reader = RingFrameReader(self.home.transport.receive)
        while True:
            message = reader.read().message
            if isinstance(message, PassResults):
                return message

    def close(self) -> None:
        self.stage.server.close()
        self.home.transport.free()
        self.chain.transport.free()


@pytest.fixture
def before() -> Iterator[Before]:
    before = Before()
    yield before
    before.close()
    assert not before.stage.failures


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_states_that_are_no_numbers_are_refused_alone(before: Before, bad: float) -> None:
    states = np.ones((2, N_EMBD), np.float32)
    states[0, 3] = bad
    before.send(Open(0, spec()))
    before.send(Open(1, spec()))
    before.send(PassFrame(1, [WindowItem(0, 1, 0, [1]), WindowItem(1, 1, 0, [2])]), pack_states(states))
    outcomes = {outcome.slot: outcome for outcome in before.verdicts().outcomes}
    assert outcomes[0].failure is not None
    assert outcomes[0].failure.code is FailureCode.BACKEND_BROKEN
    assert outcomes[1].tokens
    assert before.stage.faults[-1][0] is FrameFault.NOT_NUMBERS


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_states_of_another_number_than_the_rows_close_the_link(before: Before, rows: int) -> None:
    before.send(Open(0, spec()))
    before.send(PassFrame(1, [WindowItem(0, 1, 0, [1, 2], 2)]), pack_states(np.ones((rows, N_EMBD), np.float32)))
    assert isinstance(last_word(before.chain), LinkBroken)
    reason(before.stage)
    assert before.stage.faults[-1][0] is FrameFault.MALFORMED


def test_more_states_than_a_pass_may_have_are_not_read(before: Before) -> None:
    before.chain.transport.send(HEADER.pack(MAGIC, VERSION, 7, 10, 17 * N_EMBD * 4))
    assert isinstance(last_word(before.chain), LinkBroken)
    reason(before.stage)
    assert before.stage.faults[-1][0] is FrameFault.TOO_LONG


def test_half_precision_where_floats_are_due_closes_the_link(before: Before) -> None:
    before.send(Open(0, spec()))
    before.send(
        PassFrame(1, [WindowItem(0, 1, 0, [1])]), pack_states(np.ones((1, N_EMBD), np.float32), StateFormat.F16)
    )
    assert isinstance(last_word(before.chain), LinkBroken)


def test_an_old_epoch_behind_a_new_one_is_dropped(before: Before) -> None:
    states = pack_states(np.ones((1, N_EMBD), np.float32))
    before.send(Open(0, spec()))
    before.send(PassFrame(1, [WindowItem(0, 5, 0, [1])]), states)
    assert before.verdicts().outcomes[0].tokens
    before.send(PassFrame(2, [WindowItem(0, 4, 0, [1])]), states)
    assert before.verdicts().outcomes == []
    assert before.stage.faults == []
