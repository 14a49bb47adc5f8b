"""Throws hostile frames and cut connections at the stages of a ring, and sees whether they still do their work."""

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.ring.rings import HOME, WAIT_S, Ring
from tests.stage.hostile_frames import FrameMaker
from twd.ring.frames import LinkPong, LinkProbe, LinkRole
from twd.ring.handshake import PendingConnection, dial
from twd.ring.trust import RingTrust, client_context
from twd.wire.failures import TwdError

_FRAMES_A_BATCH = 20
_BATCHES_A_LINK = 30
_CHECK_EVERY = 5
_MARK = (1 << 52) + 1


@dataclass
class Fuzz:
    """One run; `check` wires the ring and compares a text with what it must be."""

    ring: Ring
    maker: FrameMaker
    check: Callable[[], None]
    sent: int = 0
    links: int = 0
    cuts: int = 0
    strangers: int = 0
    last_faults: dict[str, int] = field(default_factory=dict)

    def run(self, frames: int, told: Callable[["Fuzz"], None] = lambda fuzz: None) -> None:
        """Send so many frames, over as many links as that takes."""
        while self.sent < frames:
            trust = self.ring.wire()
            for _ in range(2):
                self._stranger()
            with contextlib.suppress(TwdError):
                self._attack(trust)
            if self.links % _CHECK_EVERY == 0:
                self.check()
                told(self)
        self.check()
        self.last_faults = {}
        for stage in self.ring.stages:
            for fault, count in stage.server.faults.counts.items():
                self.last_faults[fault] = self.last_faults.get(fault, 0) + count

    def _attack(self, trust: RingTrust) -> None:
        """One home, all of whose links send nonsense."""
        connections = []
        self.links += 1
        try:
            for index in range(len(self.ring.stages)):
                connections.append(self._connection(index, trust))
            for _ in range(_BATCHES_A_LINK):
                for _ in range(_FRAMES_A_BATCH):
                    connections[0].transport.send(self.maker.frame())
                for connection in connections:
                    connection.transport.send(self.maker.void())
                _until_read(connections[0])
                self.sent += _FRAMES_A_BATCH + len(connections)
            if self.maker.chance(0.5):
                self.cuts += 1
                connections[0].transport.send(self.maker.frame()[:7])
        finally:
            for connection in connections:
                connection.transport.free()

    def _connection(self, index: int, trust: RingTrust) -> PendingConnection:
        stage = self.ring.stages[index]
        certificate = stage.server.identity.certificate
        context = client_context(self.ring.identity, certificate) if trust.encrypted else None
        return dial(stage.endpoint, trust, context, LinkRole.HOME, HOME, time.monotonic() + WAIT_S).connection

    def _stranger(self) -> None:
        """Somebody who knows no secret."""
        self.strangers += 1
        self.sent += 1
        stage = self.ring.stages[self.strangers % len(self.ring.stages)]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", stage.port), WAIT_S) as sock:
            sock.sendall(self.maker.noise())


def _until_read(connection: PendingConnection) -> None:
    """A pong shows that all that was sent before has been read; raises where the link was closed over it."""
    connection.send(LinkProbe(_MARK))
    while connection.reader.read().message != LinkPong(_MARK):
        pass
