"""Strangers do not get in, and noise at the door changes nothing."""

import contextlib
import socket
import time

import pytest

from tests.ring.fake_slices import fake_text
from tests.ring.faults.broken_rings import raw, reason
from tests.ring.rings import HOME, PLAIN, QUICK, WAIT_S, Hand, Ring, fake_ring
from tests.ring.test_fake_rings import PROMPT, say, spec
from tests.waiting import wait_until
from twd.ring.frames import (
    LinkRole,
    Open,
    VoidEpochs,
    encode,
)
from twd.ring.handshake import dial_once
from twd.ring.trust import RingTrust, client_context, make_identity, ring_nonce
from twd.stage.server import LinkRules
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import FrameFault


@pytest.mark.parametrize("rules", [QUICK, PLAIN], ids=["tls", "plain"])
def test_who_does_not_know_the_secret_does_not_get_in(rules: LinkRules) -> None:
    with fake_ring(2, rules) as ring:
        trust = ring.wire()
        stranger = RingTrust(trust.ring, ring_nonce(), encrypted=trust.encrypted)
        with pytest.raises(TwdError) as refused:
            raw(ring, 0, stranger)
        assert refused.value.code is FailureCode.UNAUTHENTICATED
        assert (ring.stages[0].faults[-1][0], ring.stages[0].server.membership is not None) == (
            FrameFault.WRONG_KEY,
            True,
        )
        Hand(ring, trust).close()


def test_another_preset_key_does_not_get_in() -> None:
    with fake_ring(2, LinkRules(key="one", trusted_lan=True)) as ring:
        trust = ring.wire()
        with pytest.raises(TwdError, match="secret"):
            raw(ring, 0, RingTrust(trust.ring, trust.nonce, "other", encrypted=False))


def test_a_stage_that_does_not_know_the_key_is_not_trusted_either() -> None:
    with fake_ring(2, PLAIN) as ring:
        ring.stages[1].server._rules = LinkRules(key="other", trusted_lan=True)
        ring.wire()
        wait_until(lambda: ring.stages[1].faults, "the fault is noted")
        assert ring.stages[1].faults[-1][0] is FrameFault.WRONG_KEY
        assert "secret" in reason(ring.stages[0])


def test_a_certificate_that_was_not_wired_does_not_get_in(ring: Ring) -> None:
    trust = ring.wire()
    own, ring.identity = ring.identity, make_identity("stranger")
    context = client_context(ring.identity, ring.stages[1].server.identity.certificate)
    with pytest.raises(TwdError):
        dial_once(ring.stages[1].endpoint, trust, context, LinkRole.HOME, HOME, time.monotonic() + WAIT_S)
    wait_until(lambda: ring.stages[1].faults, "the fault is noted")
    assert ring.stages[1].faults[-1][0] is FrameFault.WRONG_KEY
    ring.identity = own
    Hand(ring, trust).close()


def test_a_home_may_not_play_the_previous_stage(ring: Ring) -> None:
    trust = ring.wire()
    with pytest.raises(TwdError, match="another role"):
        raw(ring, 1, trust, LinkRole.CHAIN)
    assert ring.stages[1].faults[-1][0] is FrameFault.WRONG_KEY
    Hand(ring, trust).close()


def test_the_ring_before_does_not_get_in(ring: Ring) -> None:
    old, new = ring.wire(), ring.wire()
    context = client_context(ring.identity, ring.stages[0].server.identity.certificate)
    with pytest.raises(TwdError, match="not the one"):
        dial_once(ring.stages[0].endpoint, old, context, LinkRole.HOME, HOME, time.monotonic() + WAIT_S)
    assert (FrameFault.PAST in [fault for fault, _ in ring.stages[0].faults], new.ring != old.ring) == (True, True)
    Hand(ring, new).close()


def test_there_is_one_home(ring: Ring) -> None:
    trust = ring.wire()
    hand = Hand(ring, trust)
    context = client_context(ring.identity, ring.stages[0].server.identity.certificate)
    with pytest.raises(TwdError, match="already"):
        dial_once(ring.stages[0].endpoint, trust, context, LinkRole.HOME, HOME, time.monotonic() + WAIT_S)
    hand.send(Open(0, spec()))
    assert say(hand, PROMPT, 3) == fake_text(PROMPT, 3)
    hand.close()


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(4096), encode(VoidEpochs(0, 1))])
@pytest.mark.parametrize("rules", [QUICK, PLAIN], ids=["tls", "plain"])
def test_noise_at_the_door_changes_nothing(rules: LinkRules, noise: bytes) -> None:
    with fake_ring(1, rules) as ring:
        trust = ring.wire()
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", ring.stages[0].port), WAIT_S) as sock:
                sock.sendall(noise)
        Hand(ring, trust).close()


def test_nobody_is_let_in_where_no_ring_was_wired() -> None:
    with fake_ring(1) as ring, socket.create_connection(("127.0.0.1", ring.stages[0].port), WAIT_S) as sock:
        sock.settimeout(WAIT_S)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(10) == b""
