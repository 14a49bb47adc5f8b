"""The port of a stage: accepts only links of the ring that it is wired for."""

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from twd.net.addresses import bare_host
from twd.ring.frames import LinkRole
from twd.ring.handshake import admit, open_connection
from twd.ring.links import ProbePace
from twd.ring.trust import LinkIdentity, RingTrust, client_context, der, server_context
from twd.stage.engine import SliceEngine
from twd.stage.faults import FrameFaults, Tell
from twd.stage.membership import RingMembership, StageResources
from twd.stage.worker import StageWorker
from twd.wire.base import InstanceId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import FrameFault, RingWired

_ADMIT_S: Final = 5.0
_GUESTS_MAX: Final = 32
_GUESTS_OF_ONE_MAX: Final = 8
"""Connections from one address in their handshake at once; with a limit, one machine cannot keep all others out."""
_BREATH_S: Final = 0.1
_CREDITS_MIN, _CREDITS_A_SLOT, _CREDITS_MAX = 16, 8, 256


@dataclass(frozen=True)
class HeldSlice:
    """Which slice of which model this stage holds."""

    model: ModelId
    file_hash: str
    first: int
    end: int
    layers: int
    head: bool

    def __str__(self) -> str:
        return f"layers {self.first}-{self.end} of {self.layers}{' and the head' if self.head else ''}"


@dataclass(frozen=True)
class StageHooks:
    """Callbacks of a stage; each may be called from any of its threads."""

    fault: Tell = lambda fault, peer, detail, count: None
    ring_over: Callable[[str, str], None] = lambda ring, reason: None
    """Gets the ring's name, and why it ended."""
    failed: Callable[[BaseException], None] = lambda error: None
    """Gets the error that ended the engine's thread."""


@dataclass(frozen=True)
class LinkRules:
    """The settings for links."""

    key: str = field(default="", repr=False)
    trusted_lan: bool = False
    pace: ProbePace = field(default_factory=ProbePace)


class StageServer:
    """A stage without the bus: it listens from the start, and which links it accepts depends on its wiring."""

    def __init__(
        self,
        name: InstanceId,
        held: HeldSlice,
        engine: SliceEngine,
        identity: LinkIdentity,
        rules: LinkRules = LinkRules(),
        hooks: StageHooks = StageHooks(),
    ) -> None:
        self.name = name
        self.held = held
        self.engine = engine
        self.identity = identity
        self.faults = FrameFaults(hooks.fault)
        self.worker = StageWorker(engine, hooks.failed)
        self._rules = rules
        self._hooks = hooks
        credits = min(_CREDITS_MAX, max(_CREDITS_MIN, _CREDITS_A_SLOT * engine.n_slots))
        self._means = StageResources(engine, self.worker, self.faults, credits, rules.pace)
        self._lock = threading.Lock()
        self._membership: RingMembership | None = None
        self._closing = threading.Event()
        self._guests: Counter[str] = Counter()
        """Number of connections in their handshake, by address."""
        self._listener: socket.socket | None = None
        self._accepter = threading.Thread(target=self._accept, name="stage-accept", daemon=True)

    def listen(self, host: str, port: int) -> int:
        """Open the port and return it; 0 takes a free one."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((bare_host(host), port), family=family, backlog=_GUESTS_MAX)
        except OSError as error:
            raise TwdError(FailureCode.BAD_REQUEST, f"a stage cannot listen on {host}:{port}: {error}") from None
        self._accepter.start()
        self.worker.start()
        return int(self._listener.getsockname()[1])

    @property
    def membership(self) -> RingMembership | None:
        """The membership in the ring that works or is being formed; None without one."""
        membership = self._membership
        return membership if membership is not None and membership.is_open else None

    def wire(self, wired: RingWired) -> None:
        """Join a ring; raises TwdError where the wiring does not fit this stage. The older ring ends then."""
        self._check(wired)
        trust = RingTrust.of(wired, self._rules.key)
        encrypts = wired.encrypted and wired.index < wired.count - 1
        context = client_context(self.identity, wired.next_certificate) if encrypts else None
        entrance = server_context(self.identity, _peers(wired)) if wired.encrypted else None
        membership = RingMembership(
            wired, trust, self._means, (entrance, context), lambda reason: self._hooks.ring_over(wired.ring, reason)
        )
        with self._lock:
            old, self._membership = self._membership, membership
        if old is not None:
            old.close(TwdError(FailureCode.WORKER_LOST, f"{self.name} was wired for another ring"))
        membership.start()

    def unwire(self, reason: str) -> None:
        """Leave the ring, if there is one."""
        membership = self._membership
        if membership is not None:
            membership.close(TwdError(FailureCode.WORKER_LOST, f"{self.name}: {reason}"))

    def close(self) -> None:
        """Leave the ring, close the port, free the memory."""
        self.unwire("this stage is stopping")
        self._closing.set()
        if self._listener is not None:
            _shut(self._listener)
            self._accepter.join(2.0)
            self.worker.stop()

    def _check(self, wired: RingWired) -> None:
        held = self.held
        if wired.stage != self.name:
            raise TwdError(FailureCode.BAD_REQUEST, f"this is {self.name}, not {wired.stage}")
        if wired.file_hash != held.file_hash:
            raise TwdError(FailureCode.BAD_REQUEST, f"{self.name} holds a slice of another file ({held.file_hash})")
        if (wired.first, wired.end) != (held.first, held.end):
            raise TwdError(FailureCode.BAD_REQUEST, f"{self.name} holds {held}, not {wired.first}-{wired.end}")
        first, last = wired.index == 0, wired.index == wired.count - 1
        if wired.index >= wired.count or first != (held.first == 0) or last != held.head:
            place = f"place {wired.index} of {wired.count}"
            raise TwdError(FailureCode.BAD_REQUEST, f"{self.name} holds {held}, which is not {place}")
        if not wired.encrypted and not self._rules.trusted_lan:
            raise TwdError(
                FailureCode.FORBIDDEN, "links without encryption need `pool.trusted_lan: true` on every node"
            )
        certificates = [wired.home_certificate, *([] if first else [wired.previous_certificate])]
        if wired.encrypted and not all(certificates if last else [*certificates, wired.next_certificate]):
            raise TwdError(FailureCode.BAD_REQUEST, "an encrypted ring needs the certificate of each neighbour")
        if not last and not (wired.next_host and wired.next_port):
            raise TwdError(FailureCode.BAD_REQUEST, f"{self.name} is not the last stage, but no next one is named")

    # -- guests --------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                sock, address = self._listener.accept()
            except OSError:
                if self._closing.wait(_BREATH_S):
                    return
                continue  # perhaps no file descriptors are left; this passes
            self._hear(sock, address[0], f"{address[0]}:{address[1]}")

    def _hear(self, sock: socket.socket, host: str, peer: str) -> None:
        """Hear a new connection on a thread of its own, or close it."""
        if self._membership is None:
            sock.close()  # no ring is expected; a ring's member tries again
        elif not self._has_room(host):
            self.faults.note(FrameFault.TOO_MANY, peer, "too many connections at once")
            sock.close()
        else:
            guest = (sock, peer, host)
            threading.Thread(target=self._receive, args=guest, name="stage-guest", daemon=True).start()

    def _has_room(self, host: str) -> bool:
        """Count one more connection of an address, and return True; return False if there are too many."""
        with self._lock:
            if self._guests[host] >= _GUESTS_OF_ONE_MAX or self._guests.total() >= _GUESTS_MAX:
                return False
            self._guests[host] += 1
            return True

    def _receive(self, sock: socket.socket, peer: str, host: str) -> None:
        try:
            self._let_in(sock, peer)
        finally:
            with self._lock:
                self._guests[host] -= 1
                self._guests += Counter()  # remove addresses with none

    def _let_in(self, sock: socket.socket, peer: str) -> None:
        membership = self._membership
        assert membership is not None
        wired, deadline = membership.wired, time.monotonic() + _ADMIT_S
        try:
            connection = open_connection(sock, membership.entrance, deadline, server=True)
        except (TwdError, OSError) as error:
            if isinstance(error.__cause__, ssl.SSLError):  # other errors: somebody only tested the port
                self.faults.note(FrameFault.WRONG_KEY, peer, str(error))
            sock.close()
            return
        try:
            if not membership.is_open:
                raise TwdError(FailureCode.WORKER_LOST, "this stage is not wired for a ring")
            membership.welcome(connection, admit(connection, membership.trust, _pinned(wired)))
        except TwdError as error:
            self.faults.note_error(error, peer)
            connection.refuse(error)


def _peers(wired: RingWired) -> list[str]:
    return [one for one in (wired.home_certificate, wired.previous_certificate) if one]


def _pinned(wired: RingWired) -> dict[LinkRole, bytes]:
    pinned = {LinkRole.HOME: der(wired.home_certificate)}
    return pinned if wired.index == 0 else {**pinned, LinkRole.CHAIN: der(wired.previous_certificate)}


def _shut(listener: socket.socket) -> None:
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # not all systems can shut down a listener; closing it does the same
    finally:
        listener.close()
