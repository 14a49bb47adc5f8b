"""How a link begins: the stage sends a challenge, the peer proves that it is of the ring, the stage welcomes it."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from twd.ring.frames import (
    Challenge,
    FrameError,
    Hello,
    LinkBroken,
    LinkClosedError,
    LinkRole,
    RingFrameReader,
    RingMessage,
    Welcome,
    encode,
)
from twd.ring.transport import TlsTransport, Transport
from twd.ring.trust import RingTrust, fresh_nonce
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import FrameFault

_AGAIN_S: Final = 0.02
_GUEST, _HOST = "guest", "host"

M = TypeVar("M", bound=RingMessage)


class RefusedError(TwdError):
    """The stage refused the link, and said why."""


@dataclass(slots=True)
class PendingConnection:
    """A connection whose handshake is not finished."""

    transport: Transport
    reader: RingFrameReader

    def send(self, message: RingMessage) -> None:
        """Send one frame."""
        self.transport.send(encode(message))

    def refuse(self, error: TwdError) -> None:
        """Send the reason for the refusal, and close the connection."""
        with contextlib.suppress(LinkClosedError):
            self.send(LinkBroken(error.failure))
        self.transport.free()


def open_connection(
    sock: socket.socket, context: ssl.SSLContext | None, deadline: float, *, server: bool
) -> PendingConnection:
    """Return a connection over a socket, encrypted if `context` is not None."""

    def patience() -> float:
        return deadline - time.monotonic()

    if context is None:
        transport = Transport(sock, patience)
    else:
        transport = TlsTransport(sock, patience, context, server_side=server)
        try:
            transport.shake_hands()
        except TwdError:
            transport.free()
            raise
    return PendingConnection(transport, RingFrameReader(transport.receive))


@dataclass(frozen=True, slots=True)
class VerifiedPeer:
    """A peer that proved to be of the ring."""

    hello: Hello
    nonce: bytes

    def welcome_proof(self, trust: RingTrust) -> bytes:
        """Return the proof for the peer that we are of the ring, too."""
        return trust.proof(_HOST, self.hello.nonce, self.nonce)


def admit(connection: PendingConnection, trust: RingTrust, pinned: dict[LinkRole, bytes]) -> VerifiedPeer:
    """Challenge whoever connected; return the verified peer. Raises FrameError unless it is of this ring. `pinned`: the
    certificate of each role, in DER."""
    nonce = fresh_nonce()
    connection.send(Challenge(nonce))
    hello = connection.reader.read().message
    if not isinstance(hello, Hello):
        raise FrameError(FrameFault.UNEXPECTED, f"a {type(hello).__name__} where a Hello was due")
    if hello.ring != trust.ring:
        raise FrameError(FrameFault.PAST, f"ring {hello.ring[:40]!r} is not the one that this stage is wired for")
    if not trust.proves(hello.proof, _GUEST, hello.role, hello.ring, hello.sender, hello.nonce, nonce):
        raise FrameError(FrameFault.WRONG_KEY, f"{hello.sender[:80]!r} does not know the ring's secret")
    if trust.encrypted and connection.transport.peer_certificate != pinned.get(hello.role):
        raise FrameError(FrameFault.WRONG_KEY, f"{hello.sender[:80]!r} shows a certificate of another role")
    return VerifiedPeer(hello, nonce)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of a stage, and its name for messages."""

    host: str
    port: int
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DialedLink:
    """A connection to a stage after its welcome."""

    connection: PendingConnection
    welcome: Welcome


def dial(
    to: Endpoint,
    trust: RingTrust,
    context: ssl.SSLContext | None,
    role: LinkRole,
    sender: str,
    deadline: float,
    wanted: Callable[[], bool] = lambda: True,
) -> DialedLink:
    """Connect to a stage; try again until the deadline or until it is no longer `wanted`, since the stage may not yet
    listen or be wired."""
    while True:
        try:
            return dial_once(to, trust, context, role, sender, deadline)
        except (TwdError, OSError) as error:
            if isinstance(error, TwdError) and error.code is FailureCode.UNAUTHENTICATED:
                raise
            if time.monotonic() + _AGAIN_S >= deadline or not wanted():
                raise TwdError(FailureCode.WORKER_LOST, f"stage {to} cannot be reached: {error}") from None
        time.sleep(_AGAIN_S)


def dial_once(
    to: Endpoint, trust: RingTrust, context: ssl.SSLContext | None, role: LinkRole, sender: str, deadline: float
) -> DialedLink:
    """Connect to a stage once; raises TwdError, or OSError where nobody listens."""
    left = max(deadline - time.monotonic(), 0.001)
    sock = socket.create_connection((to.host, to.port), timeout=left)
    connection = open_connection(sock, context, deadline, server=False)
    try:
        challenge = _read(connection, Challenge)
        nonce = fresh_nonce()
        proof = trust.proof(_GUEST, role, trust.ring, sender, nonce, challenge.nonce)
        connection.send(Hello(role, trust.ring, sender, nonce, proof))
        welcome = _read(connection, Welcome)
        if not trust.proves(welcome.proof, _HOST, nonce, challenge.nonce):
            raise FrameError(FrameFault.WRONG_KEY, f"stage {to} does not know the ring's secret")
    except TwdError:
        connection.transport.free()
        raise
    return DialedLink(connection, welcome)


def _read(connection: PendingConnection, kind: type[M]) -> M:
    message = connection.reader.read().message
    if isinstance(message, LinkBroken):
        raise RefusedError(message.failure.code, message.failure.message)
    if not isinstance(message, kind):
        raise FrameError(FrameFault.UNEXPECTED, f"a {type(message).__name__} where a {kind.__name__} was due")
    return message
