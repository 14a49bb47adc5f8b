"""The engine's thread of a stage: takes passes in order, computes windows that are still valid, sends on the
results."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from twd.engine.slices.abort import AbortFlag
from twd.ring.frames import (
    Close,
    Copy,
    Frame,
    ItemOutcome,
    Open,
    PassFrame,
    PassResults,
    RingMessage,
    StageTiming,
    States,
    WindowItem,
    are_numbers,
    pack_states,
    unpack_states,
)
from twd.stage.core import FilteredBatch, RefusedItem, StageCore, failed
from twd.stage.engine import BlockLayout, ComputeBlock, SliceEngine, StageItem
from twd.stage.guessing import PassPlace, read_and_guess
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import FrameFault, StateFormat


class WorkerSeat(Protocol):
    """A stage's membership in one ring, as the engine's thread sees it."""

    core: StageCore
    lock: threading.Lock
    """Guards the core's epochs and `running`."""
    running: list[WindowItem] | None
    first: bool
    last: bool
    format: StateFormat

    @property
    def is_open(self) -> bool:
        """Whether the ring still works."""
        ...

    def forward(self, message: RingMessage, payload: bytes = b"") -> None:
        """Send a message to the next stage."""
        ...

    def answer(self, verdicts: PassResults) -> None:
        """Send results to the driver."""
        ...

    def done(self) -> None:
        """Count a pass as finished on this stage."""
        ...

    def awaits(self, slot: int) -> bool:
        """Whether another pass with this slot is here already."""
        ...

    def announce(self, slot: int, epoch: int) -> None:
        """Tell the stages before this one that the slot's epochs below `epoch` are over."""
        ...

    def refused(self, fault: FrameFault, detail: str) -> None:
        """Count a fault of a frame."""
        ...


@dataclass(slots=True)
class StageCounters:
    """Totals since this stage began; written by the engine's thread alone."""

    passes: int = 0
    rows: int = 0
    kept: int = 0
    dropped: int = 0
    aborted: int = 0
    refused: int = 0
    compute_s: float = 0.0
    queue_s: float = 0.0

    def since(self, before: "StageCounters") -> "StageCounters":
        """Return what was added to earlier totals."""
        return StageCounters(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))


class _Work(NamedTuple):
    place: WorkerSeat
    frame: Frame
    came_at: float


class StageWorker:
    """Owns the engine. `take` adds frames, in the order in which they are worked on."""

    def __init__(self, engine: SliceEngine, failed: Callable[[BaseException], None]) -> None:
        self.counters = StageCounters()
        self._engine = engine
        self._layout = BlockLayout(engine)
        self._failed = failed
        self._flag = AbortFlag()
        self._serving: WorkerSeat | None = None
        self.under_way: float | None = None
        """When the running decode began (time.perf_counter); None when none runs."""
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="stage-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def take(self, place: WorkerSeat, frame: Frame) -> None:
        """Add a frame to the queue; the caller makes sure that not too many wait."""
        self._inbox.put(_Work(place, frame, time.perf_counter()))

    @property
    def waiting(self) -> int:
        """How many frames wait for the engine."""
        return self._inbox.qsize()

    @property
    def aborting(self) -> bool:
        """Whether the running pass was told to stop."""
        return self._flag.is_set

    def abort_if_dead(self, place: WorkerSeat) -> None:
        """Stop the running pass if all its windows are invalid by now. The caller holds the lock of `place`."""
        running = place.running
        epochs = place.core.epochs
        if running and (not place.is_open or all(epochs.is_dead(item.slot, item.epoch) for item in running)):
            self._flag.set()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Abort the running pass and end the thread; return whether it ended in time."""
        self._flag.set()
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            while (work := self._inbox.get()) is not None:
                if work.place.is_open:
                    self._do(work)
        except BaseException as error:  # noqa: BLE001 - handed to the service, which ends with it
            self._failed(error)
        finally:
            self._engine.close()

    def _do(self, work: _Work) -> None:
        place, message = work.place, work.frame.message
        if place is not self._serving:
            self._begin(place)
        if isinstance(message, PassFrame):
            try:
                self._pass(place, message, work)
            finally:
                place.done()
            return
        try:
            self._control(place, message)
        except RefusedItem as refusal:
            place.refused(refusal.fault or FrameFault.OUT_OF_RANGE, str(refusal))
            return
        if not place.last:
            place.forward(message)

    def _begin(self, place: WorkerSeat) -> None:
        """Begin with another ring: its slots are empty, so remove what the last ring left in the engine."""
        self._serving = place
        for slot in range(self._engine.n_slots):
            self._engine.clear(slot)

    def _control(self, place: WorkerSeat, message: RingMessage) -> None:
        core = place.core
        match message:
            case Open(slot=slot, spec=spec):
                core.open(slot)
                if core.head is None:
                    return
                try:
                    core.head.open(slot, *self._engine.session(spec), ends=not spec.check)
                except TwdError as error:
                    core.head.cannot_open(slot, error.failure)
            case Close(slot=slot):
                core.close(slot)
            case Copy(source=source, target=target):
                core.copy(source, target)
                if source != target:
                    self._engine.copy(source, target)

    # -- passes --------------------------------------------------------------------------------

    def _pass(self, place: WorkerSeat, message: PassFrame, work: _Work) -> None:
        began = time.perf_counter()
        states = (
            None if place.first else unpack_states(work.frame.payload, message.rows, self._engine.n_embd, place.format)
        )
        jobs, filtered = self._sift(place, message, states)
        made: list[tuple[WindowItem, States | None]] = []
        outcomes = [*message.refused, *filtered.refused]
        head_s = 0.0
        try:
            for block in self._layout.blocks(jobs, place.core.end):
                head_s += self._run(place, block, made, outcomes)
        finally:
            with place.lock:
                place.running = None
        ended = time.perf_counter() - head_s
        self._count(message, filtered, began - work.came_at, ended - began)
        if not place.is_open:  # a pass aborted by the end of the ring has not failed
            return
        timing = StageTiming(int((began - work.came_at) * 1e6), int((ended - began) * 1e6), int(head_s * 1e6))
        trail = [*message.trail, timing]
        self._send_on(place, message.id, made, outcomes, trail)

    def _sift(
        self, place: WorkerSeat, message: PassFrame, states: States | None
    ) -> tuple[list[StageItem], FilteredBatch]:
        pieces = _cut(message.items, states)
        with place.lock:
            filtered = place.core.sift(message.items, lambda number: _finite(pieces[number]))
            place.running = list(filtered.live)
            self._flag.clear()
        for fault, detail in filtered.faults:
            place.refused(fault, detail)
        known = zip(reversed(message.items), reversed(pieces), strict=True)
        piece_of = {item.slot: piece for item, piece in known}  # of a slot that comes twice, the first item is live
        return [StageItem(item, piece_of[item.slot]) for item in filtered.live], filtered

    def _run(
        self,
        place: WorkerSeat,
        block: ComputeBlock,
        made: list[tuple[WindowItem, States | None]],
        outcomes: list[ItemOutcome],
    ) -> float:
        """Compute one block; append its states to send on, or its outcomes. Return the seconds that the model's own
        head took."""
        core = place.core
        try:
            for job in block.jobs:
                self._rewind(core, job.item)
            self.under_way = time.perf_counter()
            out = self._engine.decode(block.rows, block.states, self._flag)
        except TwdError as error:
            self._undo(place, block, error, outcomes)
            return 0.0
        finally:
            self.under_way = None
        head_ms = 0.0
        for job in block.jobs:
            item, start = job.item, block.starts[job.item.slot]
            core.stands_at(item.slot, item.at + len(item.tokens))
            if core.head is None:
                made.append((item, out[start : start + len(item.tokens)]))
                continue
            with place.lock:
                outcome = self._judge(core, item, start)
                ended = core.epochs.is_dead(item.slot, item.epoch)
            if ended:
                place.announce(item.slot, item.epoch + 1)
            if outcome is not None:
                outcome, spent_ms = self._guess(place, item, outcome, PassPlace(len(block.rows), start))
                outcomes.append(outcome)
                head_ms += spent_ms
        for slot in block.padded:
            self._settle(core, slot)
        return head_ms / 1000

    def _judge(self, core: StageCore, item: WindowItem, start: int) -> ItemOutcome | None:
        assert core.head is not None
        if core.epochs.is_dead(item.slot, item.epoch):
            self.counters.dropped += 1
            return None
        outcome = core.head.judge(
            item,
            lambda node: self._engine.logits(start + node),
            core.epochs,
            lambda node, sampler, history: self._engine.choice(start + node, sampler, history),
        )
        self.counters.kept += outcome.standing
        return outcome

    def _guess(
        self, place: WorkerSeat, item: WindowItem, outcome: ItemOutcome, at: PassPlace
    ) -> tuple[ItemOutcome, float]:
        """Let the model's own head, if it is used, read the window and guess. Return its outcome with the guesses, and
        the milliseconds that took."""
        texts, guesser = place.core.head, self._engine.guesser
        if texts is None or guesser is None:
            return outcome, 0.0
        return read_and_guess(guesser, texts, item, outcome, at, follows=place.awaits(item.slot))

    def _rewind(self, core: StageCore, item: WindowItem) -> None:
        if core.end(item.slot) <= item.at:
            return
        core.stands_at(item.slot, item.at)
        self._settle(core, item.slot)
        if core.end(item.slot) < item.at:
            raise TwdError(FailureCode.UNSUPPORTED, "this model cannot take tokens back")

    def _settle(self, core: StageCore, slot: int) -> None:
        """Cut a slot's cache to the length in the core; where it cannot be rolled back, clear all of it."""
        if not self._engine.rollback(slot, core.end(slot)):
            self._engine.clear(slot)
            core.stands_at(slot, 0)

    def _undo(self, place: WorkerSeat, block: ComputeBlock, error: TwdError, outcomes: list[ItemOutcome]) -> None:
        core = place.core
        cancelled = error.code is FailureCode.CANCELLED
        self.counters.aborted += cancelled
        for job in block.jobs:
            item = job.item
            core.stands_at(item.slot, min(item.at, core.end(item.slot)))
            self._settle(core, item.slot)
            with place.lock:
                core.epochs.invalidate(item.slot, item.epoch + 1)
            if not cancelled:
                outcomes.append(failed(item, error.code, str(error)))
        for slot in block.padded:
            self._settle(core, slot)

    def _send_on(
        self,
        place: WorkerSeat,
        number: int,
        made: list[tuple[WindowItem, States | None]],
        outcomes: list[ItemOutcome],
        trail: list[StageTiming],
    ) -> None:
        """Send states that are still needed to the next stage; send the answer to the driver where the pass ends
        here."""
        with place.lock:
            epochs = place.core.epochs
            made = [one for one in made if not epochs.is_dead(one[0].slot, one[0].epoch)]
        if place.last or not made:
            place.answer(PassResults(number, outcomes, trail))
            return
        states = [piece for _, piece in made if piece is not None]
        payload = pack_states(states[0] if len(states) == 1 else np.concatenate(states), place.format)
        place.forward(PassFrame(number, [item for item, _ in made], outcomes, trail), payload)

    def _count(self, message: PassFrame, filtered: FilteredBatch, queued_s: float, computed_s: float) -> None:
        counters = self.counters
        counters.passes += 1
        counters.rows += sum(len(item.tokens) for item in filtered.live)
        counters.dropped += filtered.dropped
        counters.refused += len(filtered.refused)
        counters.queue_s += queued_s
        counters.compute_s += computed_s


def _cut(items: list[WindowItem], states: States | None) -> list[States | None]:
    """Return each item's own rows of a pass's states."""
    if states is None:
        return [None] * len(items)
    pieces: list[States | None] = []
    at = 0
    for item in items:
        pieces.append(states[at : at + len(item.tokens)])
        at += len(item.tokens)
    return pieces


def _finite(piece: States | None) -> bool:
    return piece is None or are_numbers(piece)
