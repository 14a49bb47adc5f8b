"""A stage's membership in one ring: its links, its sessions, and which frames are allowed on which link."""

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from twd.ring.frames import (
    Close,
    Copy,
    Frame,
    FrameError,
    LinkClosedError,
    LinkRole,
    Open,
    PassFrame,
    PassResults,
    RingMessage,
    VoidEpochs,
    Welcome,
    WindowItem,
    payload_max,
)
from twd.ring.handshake import Endpoint, PendingConnection, VerifiedPeer, dial
from twd.ring.links import ProbePace, RingLink
from twd.ring.trust import RingTrust
from twd.stage.core import OutputStage, SlotEpochs, StageCore, StageLimits
from twd.stage.engine import SliceEngine
from twd.stage.faults import FrameFaults
from twd.stage.worker import StageWorker
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import FrameFault, HopFacts, RingWired, StageWay

GATHER_S: Final = 15.0
"""Seconds that a wired stage waits for the rest of its ring."""
_CONTROLS_MAX: Final = 1024


@dataclass(frozen=True)
class StageResources:
    """What all memberships of a stage use."""

    engine: SliceEngine
    worker: StageWorker
    faults: FrameFaults
    credits: int
    pace: ProbePace


class RingMembership:
    """One wiring, from its message until any of its links is lost; then it is over for good."""

    def __init__(
        self,
        wired: RingWired,
        trust: RingTrust,
        means: StageResources,
        contexts: tuple[ssl.SSLContext | None, ssl.SSLContext | None],
        closed: Callable[[str], None],
    ) -> None:
        """`contexts`: TLS for incoming links and for the link to the next stage; None where links are not encrypted."""
        engine = means.engine
        self.wired = wired
        self.trust = trust
        self.first, self.last = wired.index == 0, wired.index == wired.count - 1
        self.format = wired.states
        self.lock = threading.Lock()
        self.running: list[WindowItem] | None = None
        head = OutputStage(engine.n_slots, engine.end_tokens) if self.last else None
        vocabulary = engine.vocab_size if self.first or self.last else 0
        self.core = StageCore(
            StageLimits(engine.n_slots, engine.ctx_size, engine.window_max, vocabulary), SlotEpochs(), head
        )
        self._means = means
        self.entrance, self._context = contexts
        self._closed = closed
        self._over: TwdError | None = None
        self._ready = threading.Event()
        self._in_hand: deque[PassFrame] = deque()
        """The passes that are here, the one that is computed first."""
        self._home: RingLink | None = None
        self._previous: RingLink | None = None
        self._next: RingLink | None = None
        self._dialer = threading.Thread(target=self._dial, name="stage-dial", daemon=True)
        self._patience = threading.Timer(GATHER_S, self._nobody_came)
        self._patience.daemon = True

    # -- what the engine's thread uses ---------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the ring still works, as far as this stage knows."""
        return self._over is None

    def forward(self, message: RingMessage, payload: bytes = b"") -> None:
        """Send a message to the next stage."""
        self._send(self._next, message, payload)

    def answer(self, verdicts: PassResults) -> None:
        """Send results to the driver."""
        self._send(self._home, verdicts)

    def announce(self, slot: int, epoch: int) -> None:
        """Tell the stages before this one that the slot's epochs below `epoch` are over; each passes it on."""
        self._send(self._previous, VoidEpochs(slot, epoch))

    def done(self) -> None:
        """Count a pass as finished on this stage."""
        with self.lock:
            self._in_hand.popleft()

    def awaits(self, slot: int) -> bool:
        """Whether another pass with this slot is here, behind the one that is computed."""
        with self.lock:
            behind = islice(self._in_hand, 1, None)
            return any(item.slot == slot for message in behind for item in message.items)

    def refused(self, fault: FrameFault, detail: str) -> None:
        """Count a fault of a frame."""
        self._means.faults.note(fault, self.wired.home, detail)

    @staticmethod
    def _send(link: RingLink | None, message: RingMessage, payload: bytes = b"") -> None:
        if link is None:
            return
        try:
            link.send(message, payload)
        except (LinkClosedError, FrameError) as error:  # lost, or the frame became too large by what was added here
            link.close(error)  # the link's own thread handles what follows

    # -- how it comes to stand -----------------------------------------------------------------

    def start(self) -> None:
        """Connect to the next stage, and wait for the other links."""
        self._patience.start()
        if self.last:
            self._ready.set()
        else:
            self._dialer.start()

    def _dial(self) -> None:
        wired = self.wired
        to = Endpoint(wired.next_host, wired.next_port, wired.next_stage)
        try:
            end = time.monotonic() + GATHER_S
            dialed = dial(to, self.trust, self._context, LinkRole.CHAIN, wired.stage, end, lambda: self.is_open)
            if dialed.welcome.n_embd != self._means.engine.n_embd:
                dialed.connection.transport.free()
                raise TwdError(FailureCode.BAD_REQUEST, f"stage {to} takes states of {dialed.welcome.n_embd} numbers")
        except TwdError as error:
            self.close(error)
            return
        self._next = link = RingLink(dialed.connection, "next", self._on_next, self._lost, self._means.pace)
        link.start()
        if not self.is_open:
            link.close(self._over)
        self._ready.set()

    def _nobody_came(self) -> None:
        if self._home is None or (self._previous is None and not self.first):
            self.close(TwdError(FailureCode.WORKER_LOST, f"the ring did not come together within {GATHER_S:g} s"))

    def welcome(self, connection: PendingConnection, guest: VerifiedPeer) -> None:
        """Accept the link of a verified peer; the driver's welcome waits until the chain behind this stage works."""
        home = guest.hello.role is LinkRole.HOME
        if home and not self._ready.wait(GATHER_S):
            raise self._over or TwdError(FailureCode.WORKER_LOST, "the next stage cannot be reached")
        if self._over is not None:
            raise self._over
        peer, handle = ("home", self._on_home) if home else ("previous", self._on_previous)
        link = RingLink(connection, peer, handle, self._lost, self._means.pace)
        with self.lock:
            if (self._home if home else self._previous) is not None or (self.first and not home):
                raise FrameError(FrameFault.UNEXPECTED, f"this stage has its link from {peer} already, or wants none")
            if home:
                self._home = link
            else:
                self._previous = link
                link.allow_payload(payload_max(self.core.bounds.rows_max, self._means.engine.n_embd, self.format))
        try:
            connection.send(self._welcome(guest))
        except LinkClosedError as error:
            self._lost(link, error)  # it closed while it was accepted
            raise
        link.start()
        if not self.is_open:
            link.close(self._over)

    def _welcome(self, guest: VerifiedPeer) -> Welcome:
        engine, proof = self._means.engine, guest.welcome_proof(self.trust)
        sizes = (engine.n_embd, engine.n_slots, engine.ctx_size, engine.window_max)
        return Welcome(proof, self._means.credits, *sizes, engine.undoable)

    # -- what comes in -------------------------------------------------------------------------

    def _on_home(self, frame: Frame) -> None:
        match frame.message:
            case VoidEpochs(slot=slot, epoch=epoch):
                self._void(slot, epoch)
            case _ if self.first:
                self._take(frame)
            case _:
                raise _unexpected(frame)

    def _on_previous(self, frame: Frame) -> None:
        self._take(frame)

    def _on_next(self, frame: Frame) -> None:
        match frame.message:
            case VoidEpochs(slot=slot, epoch=epoch):
                self._void(slot, epoch)
                self.announce(slot, epoch)
            case _:
                raise _unexpected(frame)

    def _void(self, slot: int, epoch: int) -> None:
        if slot >= self.core.bounds.slots:
            self.refused(FrameFault.OUT_OF_RANGE, f"slot {slot} of {self.core.bounds.slots} is void")
            return
        with self.lock:
            self.core.epochs.invalidate(slot, epoch)
            self._means.worker.abort_if_dead(self)

    def _take(self, frame: Frame) -> None:
        message, worker = frame.message, self._means.worker
        if isinstance(message, PassFrame):
            self._require_payload(message, len(frame.payload))
            with self.lock:
                self._in_hand.append(message)
                if len(self._in_hand) > self._means.credits:
                    raise FrameError(FrameFault.TOO_MANY, f"more than {self._means.credits} passes in flight")
        elif not isinstance(message, Open | Copy | Close):
            raise _unexpected(frame)
        elif worker.waiting > self._means.credits + _CONTROLS_MAX:
            raise FrameError(FrameFault.TOO_MANY, f"{worker.waiting} frames are waiting")
        worker.take(self, frame)

    def _require_payload(self, message: PassFrame, size: int) -> None:
        wanted = 0 if self.first else payload_max(message.rows, self._means.engine.n_embd, self.format)
        if size != wanted:
            raise FrameError(FrameFault.MALFORMED, f"{message.rows} rows came with {size} bytes, not {wanted}")

    # -- how it ends ---------------------------------------------------------------------------

    def _lost(self, link: RingLink, reason: TwdError) -> None:
        self._means.faults.note_error(reason, f"{link.peer} of {self.wired.stage}")
        self.close(TwdError(reason.code, f"{self.wired.stage} lost its link with {link.peer}: {reason}"))

    def close(self, reason: TwdError) -> None:
        """Close all links and so end all sessions. Harmless when repeated, from any thread, never waits."""
        with self.lock:
            if self._over is not None:
                return
            self._over = reason
            self._means.worker.abort_if_dead(self)
            links = [link for link in (self._home, self._previous, self._next) if link is not None]
        self._patience.cancel()
        self._ready.set()
        for link in links:
            link.close(reason)
        self._closed(str(reason))

    def hops(self) -> list[HopFacts]:
        """Return what its links measured."""
        return [link.facts() for link in (self._home, self._previous, self._next) if link is not None]

    def way_on(self) -> StageWay | None:
        """Return the measured link to the next stage; None where there is none, or nothing was measured yet."""
        found = self._next.facts() if self._next is not None else None
        if found is None or not found.rtt_min_ms:
            return None
        return StageWay(self.wired.next_stage, found.rtt_min_ms, found.bandwidth)


def _unexpected(frame: Frame) -> FrameError:
    return FrameError(FrameFault.UNEXPECTED, f"a {type(frame.message).__name__} does not belong on this link")
