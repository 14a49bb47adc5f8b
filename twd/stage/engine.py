"""The interface of a slice in memory for its stage, whatever computes it; and the layout of a pass for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from twd.decoding.batches import BatchPart, BatchPlanner, BatchRules
from twd.decoding.window import Report, Sampler
from twd.engine.context import BatchTokens, Logits
from twd.engine.heads.seat import HeadSeat
from twd.engine.slices.abort import AbortFlag
from twd.ring.frames import SessionSpec, States, WindowItem

_PADDING_TOKEN = 0


class SliceEngine(Protocol):
    """A slice of a model with its own KV cache. For one thread only."""

    n_embd: int
    n_slots: int
    ctx_size: int
    window_max: int
    rows_min: int
    can_pad: bool
    undoable: int
    """How many of its last tokens a slot can always give back."""
    guesser: HeadSeat | None
    """The model's own head; on the output stage only."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary; 0 where tokens are not looked at."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a text; known where the output head is."""
        ...

    def decode(self, rows: BatchTokens, states: States | None = None, aborted: AbortFlag | None = None) -> States:
        """Compute one pass. Returns the states after the slice; with the head none, use `logits`. An aborted pass
        raises CANCELLED."""
        ...

    def logits(self, row: int) -> Logits:
        """Return the logits of a row of the last pass."""
        ...

    def choice(self, row: int, sampler: Sampler, history: Sequence[int]) -> int | None:
        """Return what a sampler picks behind a history at a row of the last pass; None: see the logits."""
        ...

    def session(self, spec: SessionSpec) -> tuple[Sampler, Report | None]:
        """Return the sampler of a session, and what reports on its tokens; with the head only."""
        ...

    def rollback(self, slot: int, position: int) -> bool:
        """Remove a slot's rows from `position` on; False where that is not possible."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Make the target slot a copy of the source slot."""
        ...

    def clear(self, slot: int) -> None:
        """Remove all rows of a slot."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


@dataclass(frozen=True, slots=True)
class StageItem:
    """An item to compute, with the states of its rows; None on the first stage."""

    item: WindowItem
    states: States | None = None

    @property
    def output_from(self) -> int:
        """Index of the first row whose logits are used; behind the last row where nothing is picked."""
        return self.item.committed - 1 if self.item.picks else len(self.item.tokens)


@dataclass(slots=True)
class ComputeBlock:
    """What the engine computes in one call: neighbouring slots with equally many rows, padded where necessary."""

    rows: BatchTokens
    states: States | None
    jobs: list[StageItem]
    starts: dict[int, int]
    """The first row of each slot, by slot."""
    padded: list[int]
    """Slots that hold padding rows after the call."""


class BlockLayout:
    """Arranges jobs into blocks."""

    def __init__(self, engine: SliceEngine) -> None:
        rules = BatchRules(engine.window_max, streams=True, can_pad=engine.can_pad, rows_min=engine.rows_min)
        self._planner = BatchPlanner(rules)
        self._n_embd = engine.n_embd

    def blocks(self, jobs: Sequence[StageItem], end_of: Callable[[int], int]) -> Iterator[ComputeBlock]:
        """Yield as few and as small blocks as possible; `end_of` returns the cache end of slots that are only
        padding."""
        by_slot = {job.item.slot: job for job in jobs}
        shape = tuple((slot, len(by_slot[slot].item.tokens)) for slot in sorted(by_slot))
        for one in self._planner.plan(shape) if shape else ():
            yield self._block(one.parts, by_slot, end_of)

    def _block(
        self, parts: Sequence[BatchPart], by_slot: dict[int, StageItem], end_of: Callable[[int], int]
    ) -> ComputeBlock:
        block = ComputeBlock(BatchTokens(), None, [], {}, [part.slot for part in parts if part.padding])
        pieces: list[States] = []
        for part in parts:
            job = by_slot.get(part.slot)
            at = end_of(part.slot) if job is None else job.item.at
            if job is not None:
                block.starts[part.slot] = len(block.rows)
                block.jobs.append(job)
                block.rows.add(part.slot, at, job.item.tokens, job.output_from)
                if job.states is not None:
                    pieces.append(job.states)
            if part.padding:
                block.rows.add(part.slot, at + part.rows, [_PADDING_TOKEN] * part.padding, part.padding)
                pieces.append(np.zeros((part.padding, self._n_embd), np.float32))
        if block.jobs[0].states is not None:
            block.states = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return block
