"""Links: frames both ways, measured, closed with a reason, and given up when the other end falls silent."""

import queue
import socket
import threading

import pytest

from tests.ring.rings import WAIT_S
from twd.ring.frames import BULK_PROBE, Frame, LinkBroken, LinkPong, LinkProbe, RingFrameReader, VoidEpochs, encode
from twd.ring.handshake import PendingConnection, open_connection
from twd.ring.links import ProbePace, RingLink
from twd.ring.trust import LinkIdentity, client_context, make_identity, server_context
from twd.wire.failures import FailureCode, TwdError

ONE, OTHER = make_identity("one"), make_identity("other")
NEVER = 1e6


def connections(encrypted: bool) -> tuple[PendingConnection, PendingConnection]:
    """Two ends, after the handshake."""
    left, right = socket.socketpair()
    made: queue.SimpleQueue[PendingConnection] = queue.SimpleQueue()
    context = server_context(OTHER, [ONE.certificate]) if encrypted else None
    server = threading.Thread(target=lambda: made.put(open_connection(right, context, NEVER, server=True)))
    server.start()
    client = open_connection(left, client_context(ONE, OTHER.certificate) if encrypted else None, NEVER, server=False)
    server.join(WAIT_S)
    return client, made.get(timeout=WAIT_S)


class End:
    """A link, and what came over it."""

    def __init__(self, connection: PendingConnection, pace: ProbePace) -> None:
        self.frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.reasons: queue.SimpleQueue[TwdError] = queue.SimpleQueue()
        self.link = RingLink(connection, "peer", self.frames.put, lambda link, reason: self.reasons.put(reason), pace)
        self.link.start()

    def reason(self) -> TwdError:
        return self.reasons.get(timeout=WAIT_S)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def ends(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    one, other = (End(connection, ProbePace(0.02, 10.0)) for connection in connections(request.param))
    yield one, other
    for end in (one, other):
        end.link.close()
    assert one.link.join(WAIT_S)
    assert other.link.join(WAIT_S)


def test_frames_go_both_ways_at_once(ends: tuple[End, End]) -> None:
    one, other = ends
    other.link.allow_payload(1 << 22)

    def talk(end: End) -> None:
        for number in range(300):
            end.link.send(VoidEpochs(1, number))

    threads = [threading.Thread(target=talk, args=(end,)) for end in ends for _ in range(2)]
    for thread in threads:
        thread.start()
    for end in ends:
        got = [end.frames.get(timeout=WAIT_S).message for _ in range(600)]
        assert sorted(message.epoch for message in got if isinstance(message, VoidEpochs)) == sorted([*range(300)] * 2)
    for thread in threads:
        thread.join(WAIT_S)
    assert one.link.is_open


def test_a_link_is_measured(ends: tuple[End, End]) -> None:
    one, _ = ends
    measured = threading.Event()
    deadline = threading.Timer(WAIT_S, measured.set)
    deadline.start()
    while not measured.wait(0.01):
        facts = one.link.facts()
        if facts.rtt_ms and facts.bandwidth:
            break
    deadline.cancel()
    assert 0 < facts.rtt_min_ms <= WAIT_S * 1000
    assert facts.bandwidth > 0
    assert facts.sent_bytes > BULK_PROBE


def test_the_other_end_is_told_why(ends: tuple[End, End]) -> None:
    one, other = ends
    one.link.close(TwdError(FailureCode.DRAINING, "going home"))
    assert one.reason().code is FailureCode.DRAINING
    told = other.reason()
    assert (told.code, str(told)) == (FailureCode.DRAINING, "going home")
    assert other.link.join(WAIT_S)
    with pytest.raises(TwdError, match="closed"):
        other.link.send(VoidEpochs(0, 0))


def test_what_a_handler_raises_closes_the_link_and_is_told() -> None:
    left, right = connections(False)

    def handle(frame: Frame) -> None:
        raise ValueError("not so")

    reasons: queue.SimpleQueue[TwdError] = queue.SimpleQueue()
    link, other = RingLink(left, "peer", handle, lambda _, reason: reasons.put(reason)), End(right, ProbePace())
    link.start()
    other.link.send(VoidEpochs(0, 0))
    assert "not so" in str(reasons.get(timeout=WAIT_S))
    assert other.reason().code is FailureCode.INTERNAL
    assert link.join(WAIT_S)
    assert other.link.join(WAIT_S)


def test_a_silent_end_is_given_up_even_when_it_reads_nothing() -> None:
    left, right = connections(False)
    one = End(left, ProbePace(0.02, 0.3))
    sender = threading.Thread(target=flood, args=(one.link,))
    sender.start()  # fills the buffers until sending waits
    assert "too long" in str(one.reason())
    sender.join(WAIT_S)
    assert not sender.is_alive()
    assert one.link.join(WAIT_S)
    right.transport.free()


def flood(link: RingLink) -> None:
    try:
        while True:
            link.send(LinkProbe(1), bytes(BULK_PROBE))
    except TwdError:
        return


def test_probes_are_answered_and_strange_pongs_ignored() -> None:
    left, right = connections(False)
    one = End(left, ProbePace(NEVER, 30.0))
    right.transport.send(encode(LinkPong(12345)) + encode(LinkProbe(7)))
    reader = RingFrameReader(right.transport.receive)
    seen = [reader.read().message for _ in range(2)]
    assert LinkPong(7) in seen
    one.link.close()
    rest = [reader.read().message]
    while not isinstance(rest[-1], LinkBroken):
        rest.append(reader.read().message)
    right.transport.free()
    assert one.link.join(WAIT_S)


@pytest.mark.parametrize(
    ("shown", "pinned"), [(make_identity("stranger"), ONE), (ONE, make_identity("stranger"))], ids=["guest", "host"]
)
def test_a_certificate_that_is_not_pinned_does_not_get_in(shown: LinkIdentity, pinned: LinkIdentity) -> None:
    left, right = socket.socketpair()
    failed: queue.SimpleQueue[str] = queue.SimpleQueue()

    def serve() -> None:
        try:
            connection = open_connection(right, server_context(OTHER, [pinned.certificate]), NEVER, server=True)
            connection.reader.read()
        except TwdError as error:
            failed.put(str(error))
            right.close()

    server = threading.Thread(target=serve)
    server.start()
    try:
        connection = open_connection(left, client_context(shown, OTHER.certificate), NEVER, server=False)
        connection.send(VoidEpochs(0, 0))
        connection.reader.read()
    except TwdError:
        left.close()
    assert failed.get(timeout=WAIT_S)
    server.join(WAIT_S)
