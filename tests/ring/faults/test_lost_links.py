"""Links that are lost and stages that go: no stage is lost, and each says what it saw."""

import contextlib
import threading

import pytest

from tests.ring.fake_slices import FakeSlice, fake_text
from tests.ring.faults.broken_rings import raw, reason, works
from tests.ring.rings import WAIT_S, Ring, fake_ring
from tests.ring.test_fake_rings import PROMPT, one, say, spec
from tests.waiting import wait_until
from twd.ring.frames import (
    Close,
    LinkClosedError,
    Open,
    PassFrame,
    RingMessage,
    Welcome,
    WindowItem,
    encode,
)
from twd.ring.handshake import PendingConnection
from twd.ring.links import ProbePace, RingLink
from twd.stage.server import LinkRules
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import FrameFault


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
