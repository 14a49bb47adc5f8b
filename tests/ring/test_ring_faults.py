"""What goes wrong in rings: links cut, stages gone, strangers, nonsense. No stage is lost; each says what it saw."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from tests.ring.fake_slices import LAYERS, N_EMBD, FakeSlice, fake_text
from tests.ring.rings import HOME, PLAIN, QUICK, WAIT_S, Hand, Ring, Stage, fake_ring, start_stage
from tests.ring.test_fake_rings import PROMPT, one, say, spec
from tests.waiting import wait_until
from twd.ring.frames import (
    HEADER,
    MAGIC,
    VERSION,
    Close,
    FrameError,
    LinkBroken,
    LinkClosedError,
    LinkRole,
    Open,
    PassFrame,
    PassResults,
    RingFrameReader,
    RingMessage,
    VoidEpochs,
    Welcome,
    WindowItem,
    encode,
    pack_states,
)
from twd.ring.handshake import PendingConnection, dial, dial_once
from twd.ring.links import ProbePace, RingLink
from twd.ring.trust import RingTrust, client_context, make_identity, ring_nonce
from twd.stage.server import HeldSlice, LinkRules
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import FrameFault, StateFormat


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


@pytest.fixture
def ring() -> Iterator[Ring]:
    with fake_ring(3) as ring:
        yield ring


# -- links that are lost ---------------------------------------------------------------------------


def test_home_goes_and_the_ring_waits_for_the_next(ring: Ring) -> None:
    for _ in range(3):
        hand = ring.connect()
        hand.send(Open(0, spec()))
        assert say(hand, PROMPT, 2) == fake_text(PROMPT, 2)
        hand.close()
        for stage in ring.stages:
            assert "lost its link" in reason(stage)
            assert stage.server.membership is None
    works(ring)


def test_one_home_link_lost_ends_the_whole_ring_and_all_are_told(ring: Ring) -> None:
    hand = ring.connect()
    hand.links[1].close()
    reasons = dict(hand.lost.get(timeout=WAIT_S) for _ in range(3))
    assert sorted(reasons) == [0, 1, 2]
    assert "lost its link" in str(reasons[0])
    works(ring)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_stage_goes_and_home_hears_it_from_the_others(ring: Ring, gone: int) -> None:
    hand = ring.connect()
    ring.stages[gone].server.close()
    reasons = dict(hand.lost.get(timeout=WAIT_S) for _ in range(3))
    assert "stopping" in str(reasons[gone])
    assert all(membership is None for membership in (stage.server.membership for stage in ring.stages))
    with contextlib.suppress(TwdError):
        hand.send(Close(0))


def test_a_new_wiring_ends_the_old_ring(ring: Ring) -> None:
    old = ring.connect()
    works(ring)
    for _ in range(3):
        _, why = old.lost.get(timeout=WAIT_S)
        assert why.code is FailureCode.WORKER_LOST


def test_a_home_that_falls_silent_is_given_up() -> None:
    with fake_ring(1, LinkRules(trusted_lan=True, pace=ProbePace(0.02, 0.3))) as ring:
        raw(ring, 0, ring.wire())
        assert "too long" in reason(ring.stages[0])
        assert ring.stages[0].faults[-1][0] is FrameFault.SILENT
        works(ring)


def test_a_ring_that_never_comes_together_is_given_up(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.stage.membership.GATHER_S", 0.2)
    ring.wire()
    why = reason(ring.stages[0])
    assert any(words in why for words in ("come together", "lost", "cannot be reached")), why
    monkeypatch.undo()
    works(ring)


def test_a_pass_under_way_when_the_ring_ends_is_dropped(ring: Ring) -> None:
    hand = ring.connect()
    engine = ring.stages[1].server.engine
    assert isinstance(engine, FakeSlice)
    began, go = threading.Event(), threading.Event()

    def hold(rows: object) -> None:
        began.set()
        assert go.wait(WAIT_S)

    engine.before = hold
    hand.send(Open(0, spec()))
    hand.send(PassFrame(1, [WindowItem(0, 1, 0, PROMPT, len(PROMPT))]))
    assert began.wait(WAIT_S)
    hand.close()
    for stage in ring.stages:
        reason(stage)
    engine.before = lambda rows: None
    go.set()
    works(ring)


def test_a_pass_that_is_stopped_because_its_stage_leaves_has_not_failed(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = ring.connect()
    server = ring.stages[2].server
    engine, membership, close = server.engine, server.membership, RingLink.close
    assert isinstance(engine, FakeSlice)
    assert membership is not None
    began = threading.Event()

    def hold(rows: object) -> None:
        began.set()
        wait_until(lambda: server.worker.aborting, "the pass is told to stop")

    def close_late(link: RingLink, reason: TwdError | None = None) -> None:
        if reason is not None and "leaves" in str(reason):
            wait_until(lambda: not membership._in_hand, "the pass has left the stage")
        close(link, reason)

    monkeypatch.setattr(RingLink, "close", close_late)
    engine.before = hold
    hand.send(Open(0, spec()))
    hand.send(PassFrame(1, [WindowItem(0, 1, 0, PROMPT, len(PROMPT))]))
    assert began.wait(WAIT_S)
    server.unwire("it leaves")
    assert hand.lost.get(timeout=WAIT_S)
    assert hand.frames.empty(), "nobody may take that for an answer"


# -- wirings that do not fit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file_hash": "other"}, "another file"),
        ({"first": 1}, "holds layers"),
        ({"end": 8}, "holds layers"),
        ({"index": 0}, "which is not place"),
        ({"index": 2}, "which is not place"),
        ({"count": 2}, "which is not place"),
        ({"stage": "stage.other"}, "this is"),
        ({"encrypted": False}, "trusted_lan"),
        ({"next_port": 0}, "no next one"),
        ({"next_certificate": "nonsense"}, "certificate"),
        ({"home_certificate": "nonsense"}, "certificate"),
        ({"home_certificate": ""}, "certificate"),
        ({"previous_certificate": ""}, "certificate"),
    ],
)
def test_a_wiring_that_does_not_fit_is_refused_and_the_old_ring_stands(
    ring: Ring, change: dict[str, object], says: str
) -> None:
    hand = ring.connect()
    wired = msgspec.structs.replace(ring.wirings("other", ring_nonce())[1], **change)
    with pytest.raises(TwdError, match=says):
        ring.stages[1].server.wire(wired)
    hand.send(Open(0, spec()))
    assert say(hand, PROMPT, 3) == fake_text(PROMPT, 3)
    hand.close()


def test_stages_of_other_widths_do_not_meet() -> None:
    with fake_ring(2) as ring:
        engine = ring.stages[1].server.engine
        engine.n_embd = N_EMBD + 1
        ring.wire()
        assert "states of" in reason(ring.stages[0])
        assert "too long" not in reason(ring.stages[1]), "what was not wanted is closed, not left to be missed"
        engine.n_embd = N_EMBD
        works(ring)


# -- strangers -------------------------------------------------------------------------------------


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


# -- nonsense from within --------------------------------------------------------------------------

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


# -- nonsense from the stage before ----------------------------------------------------------------


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


def test_one_window_says_the_truth_about_what_stands(ring: Ring) -> None:
    hand = ring.connect()
    hand.send(Open(0, spec()))
    outcome = one(hand, WindowItem(0, 1, 0, [*PROMPT, *fake_text(PROMPT, 3)], len(PROMPT)))
    assert outcome.standing == len(PROMPT) + 3
    hand.close()


def test_a_ring_of_which_a_member_went_while_it_was_let_in_is_over(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(connection: PendingConnection, message: RingMessage) -> None:
        if isinstance(message, Welcome):
            raise LinkClosedError("gone")
        connection.transport.send(encode(message))

    monkeypatch.setattr(PendingConnection, "send", gone)
    ring.wire()
    assert "lost" in reason(ring.stages[1]), "the first one reaches it, whatever becomes of its own way to the last"
    monkeypatch.undo()
    works(ring)
