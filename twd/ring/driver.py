"""The links of one ring, on the driver's side: windows leave to the first stage, answers come from any stage."""

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from twd.ring.frames import Frame, FrameError, LinkClosedError, LinkRole, PassResults, RingMessage, VoidEpochs, Welcome
from twd.ring.handshake import DialedLink, Endpoint, dial
from twd.ring.links import ProbePace, RingLink
from twd.ring.trust import LinkIdentity, RingTrust, client_context
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import FrameFault, HopFacts, StageReady


class PassAnswer(NamedTuple):
    """The results of a pass, and when they came (time.monotonic)."""

    verdicts: PassResults
    at: float


@dataclass(frozen=True, slots=True)
class RingLimits:
    """The limits that every stage of a ring can meet."""

    slots: int
    ctx_size: int
    window_max: int
    credits: int
    undoable: int

    @classmethod
    def of(cls, welcomes: Sequence[Welcome]) -> "RingLimits":
        """Return the smallest value of each limit."""
        return cls(
            slots=min(one.slots for one in welcomes),
            ctx_size=min(one.ctx_size for one in welcomes),
            window_max=min(one.window_max for one in welcomes),
            credits=min(one.credits for one in welcomes),
            undoable=min(one.undoable for one in welcomes),
        )


class RingDriver:
    """A ring that works until any of its links is lost; then it is over for good.

    Answers are collected here; `wake` is called, from any thread, for each of them and once when the ring is over.
    """

    def __init__(self, dialed: Sequence[DialedLink], names: Sequence[str], pace: ProbePace) -> None:
        self.bounds = RingLimits.of([one.welcome for one in dialed])
        self.stages = len(dialed)
        self.wake: Callable[[], None] = lambda: None
        self.ended: Callable[[TwdError], None] = lambda reason: None
        """Called once, from any thread, when the ring is over."""
        self.over: TwdError | None = None
        """Why the ring is over."""
        self._answers: queue.SimpleQueue[PassAnswer | None] = queue.SimpleQueue()
        """Answers not yet fetched; None: the ring is over, and no more come."""
        self._links = [
            RingLink(one.connection, name, self._take, self._lost, pace)
            for one, name in zip(dialed, names, strict=True)
        ]
        for link in self._links:
            link.start()

    @classmethod
    def connect(
        cls,
        stages: Sequence[StageReady],
        trust: RingTrust,
        identity: LinkIdentity,
        name: str,
        deadline: float,
        pace: ProbePace,
    ) -> "RingDriver":
        """Connect to all stages, which already have their wiring; blocks until all have answered, at most until
        `deadline`."""

        def reach(stage: StageReady) -> DialedLink:
            context = client_context(identity, stage.certificate) if trust.encrypted else None
            to = Endpoint(stage.host, stage.port, stage.stage)
            return dial(to, trust, context, LinkRole.HOME, name, deadline)

        with ThreadPoolExecutor(len(stages), thread_name_prefix="dial") as pool:
            reached = [pool.submit(reach, stage) for stage in stages]
        failed = [error for one in reached if (error := one.exception()) is not None]
        if failed:
            for one in reached:
                if one.exception() is None:
                    one.result().connection.transport.free()
            raise failed[0]
        return cls([one.result() for one in reached], [stage.stage for stage in stages], pace)

    def send(self, message: RingMessage) -> None:
        """Send a message to the first stage, in order; does nothing when the ring is over."""
        self._send(self._links[0], message)

    def void(self, slot: int, epoch: int) -> None:
        """Tell all stages that the slot's epochs below this one are over; overtakes queued frames."""
        for link in self._links:
            self._send(link, VoidEpochs(slot, epoch))

    def answers(self, timeout_s: float = 0.0) -> list[PassAnswer]:
        """Return the answers that came, in order; waits up to `timeout_s` for the first, or until the ring is over."""
        found: list[PassAnswer] = []
        wait = timeout_s > 0.0 and self.over is None
        try:
            while (answer := self._answers.get(wait and not found, timeout_s)) is not None:
                found.append(answer)
        except queue.Empty:
            pass
        return found

    def hops(self) -> list[HopFacts]:
        """Return what each link measured, in ring order."""
        return [link.facts() for link in self._links]

    def close(self, reason: TwdError | None = None) -> None:
        """Close all links; harmless when repeated."""
        for link in self._links:
            link.close(reason)

    def join(self, timeout_s: float = 3.0) -> bool:
        """Wait until all threads have ended; return whether they have."""
        end = time.monotonic() + timeout_s
        ended = [link.join(max(0.0, end - time.monotonic())) for link in self._links]
        return all(ended)

    def _send(self, link: RingLink, message: RingMessage) -> None:
        try:
            link.send(message)
        except LinkClosedError as error:
            link.close(error)  # the link's own thread reports that the ring is over

    def _take(self, frame: Frame) -> None:
        if not isinstance(frame.message, PassResults):
            raise FrameError(FrameFault.UNEXPECTED, f"a {type(frame.message).__name__} does not belong here")
        self._answers.put(PassAnswer(frame.message, time.monotonic()))
        self.wake()

    def _lost(self, link: RingLink, reason: TwdError) -> None:
        if self.over is None:
            self.over = TwdError(FailureCode.WORKER_LOST, f"the ring lost stage {link.peer}: {reason}")
            self.close(LinkClosedError("another stage of this ring is lost"))
            self._answers.put(None)
            self.wake()
            self.ended(self.over)
