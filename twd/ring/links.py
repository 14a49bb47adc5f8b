"""A link after its handshake: frames in both directions, and a pulse that measures it and notices when the other end
stops."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twd.ring.frames import Frame, LinkBroken, LinkClosedError, LinkPong, LinkProbe, RingMessage, encode
from twd.ring.handshake import PendingConnection, RefusedError
from twd.ring.pulse import LinkPulse
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import HopFacts

SWITCH_S: Final = 0.0005
"""Seconds that a Python thread may run while another waits; frames must not wait the usual 5 ms."""
_LAST_WORD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ProbePace:
    """How often a link is probed, and after how many seconds of silence the other end counts as lost."""

    probe_s: float = 0.4
    silence_s: float = 2.0


class RingLink:
    """One connection after its handshake. `handle` gets every frame except probes; `closed` gets the reason, once.

    Both are called on the link's receiving thread. An exception from `handle` closes the link.
    """

    def __init__(
        self,
        connection: PendingConnection,
        peer: str,
        handle: Callable[[Frame], None],
        closed: Callable[["RingLink", TwdError], None],
        pace: ProbePace = ProbePace(),
    ) -> None:
        self.peer = peer
        self._transport = transport = connection.transport
        self._reader = connection.reader
        self._handle = handle
        self._closed = closed
        self._reason: TwdError | None = None
        self._pulse = LinkPulse(pace.probe_s, lambda: transport.sent_bytes)
        transport.heard = time.monotonic()
        transport.patience = lambda: pace.silence_s - (time.monotonic() - transport.heard)
        self._receiver = threading.Thread(target=self._receive, name=f"link {peer}", daemon=True)
        self._beater = threading.Thread(target=self._beat, name=f"pulse {peer}", daemon=True)

    def start(self) -> None:
        """Begin to receive and to probe."""
        self._beater.start()
        self._receiver.start()

    def allow_payload(self, size: int) -> None:
        """Set how many bytes of states one pass may bring; 0 before this is called."""
        self._reader.payload_max = size

    @property
    def is_open(self) -> bool:
        """Whether neither end has closed it."""
        return self._reason is None

    def send(self, message: RingMessage, payload: bytes = b"") -> None:
        """Send one frame; waits while the other end does not read. Raises LinkClosedError."""
        self._transport.send(encode(message, payload))

    def close(self, reason: TwdError | None = None) -> None:
        """End the link and tell the other end why; from any thread, harmless when repeated, never waits."""
        if self._reason is None:
            self._reason = reason or LinkClosedError("the other end closed the link")
            self._pulse.stop()

    def join(self, timeout_s: float = 3.0) -> bool:
        """Wait until its threads have ended; return whether they have."""
        for thread in (self._receiver, self._beater):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(timeout_s)
        return not (self._receiver.is_alive() or self._beater.is_alive())

    def facts(self) -> HopFacts:
        """Return what was measured on the link."""
        pulse, transport = self._pulse, self._transport
        return HopFacts(
            to=self.peer,
            rtt_ms=round(pulse.rtt_s * 1000, 3),
            rtt_min_ms=round(pulse.rtt_min_s * 1000, 3),
            bandwidth=int(pulse.bandwidth),
            sent_bytes=transport.sent_bytes,
            received_bytes=transport.received_bytes,
        )

    def _receive(self) -> None:
        try:
            while self.is_open:
                self._take(self._reader.read())
        except TwdError as error:
            self.close(error)
        except Exception as error:  # noqa: BLE001 - the edge: it closes the link and is told with its cause
            self.close(TwdError(FailureCode.INTERNAL, f"{type(error).__name__}: {error}"))
        assert self._reason is not None
        self._closed(self, self._reason)
        if not isinstance(self._reason, LinkClosedError | RefusedError):
            self._drain()
        self._transport.hang_up()
        self._beater.join()
        self._transport.free()

    def _drain(self) -> None:
        """Read until the other end has our last message: unread bytes would make it lose that message."""
        until = time.monotonic() + _LAST_WORD_S
        self._transport.patience = lambda: until - time.monotonic()
        with contextlib.suppress(TwdError):
            while self._transport.receive():
                pass

    def _take(self, frame: Frame) -> None:
        match frame.message:
            case LinkProbe(id=number):
                self._pulse.owe(number)
            case LinkPong(id=number):
                self._pulse.answered(number)
            case LinkBroken(failure=failure):
                raise RefusedError(failure.code, failure.message)
            case _ if self.is_open:
                self._handle(frame)

    def _beat(self) -> None:
        with contextlib.suppress(LinkClosedError):  # the receiver notices this, and may first read a last message
            while (due := self._pulse.due()) is not None:
                for message, payload in due:
                    self.send(message, payload)
            if self._reason is not None and not isinstance(self._reason, RefusedError):
                self.send(LinkBroken(self._reason.failure))
            self._transport.finish()
