"""What tests of broken rings ask: whether a ring works, why it ended, and what a stage says at its end."""

import contextlib
import time

import pytest

from tests.ring.fake_slices import fake_text
from tests.ring.rings import HOME, WAIT_S, Ring, Stage
from tests.ring.test_fake_rings import PROMPT, say, spec
from twd.ring.frames import (
    LinkBroken,
    LinkRole,
    Open,
    RingMessage,
)
from twd.ring.handshake import PendingConnection, dial
from twd.ring.trust import RingTrust, client_context
from twd.wire.failures import TwdError


def works(ring: Ring) -> None:
    """Wire it anew and let it speak."""
    hand = ring.connect()
    hand.send(Open(0, spec()))
    assert say(hand, PROMPT, 6) == fake_text(PROMPT, 6)
    hand.close()


def reason(stage: Stage) -> str:
    return stage.over.get(timeout=WAIT_S)


def raw(hand_ring: Ring, stage: int, trust: RingTrust, role: LinkRole = LinkRole.HOME) -> PendingConnection:
    """A connection after its handshake, for bytes of any kind."""
    to = hand_ring.stages[stage]
    context = client_context(hand_ring.identity, to.server.identity.certificate) if trust.encrypted else None
    return dial(to.endpoint, trust, context, role, HOME, time.monotonic() + WAIT_S).connection


def last_word(connection: PendingConnection) -> RingMessage:
    """What a stage says before it hangs up."""
    with contextlib.suppress(TwdError):
        while True:
            message = connection.reader.read().message
            if isinstance(message, LinkBroken):
                return message
    pytest.fail("it hung up without a word")
