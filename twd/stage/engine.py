"""What a stage needs of the slice in its memory, whatever computes it; and how a pass is laid out for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from twd.decoding.batches import BatchPart, BatchPlanner, BatchRules
from twd.decoding.window import Report, Sampler
from twd.engine.context import BatchTokens, Logits
from twd.engine.slices.abort import AbortFlag
from twd.ring.frames import SessionSpec, States, WindowItem

_PADDING_TOKEN = 0


class SliceEngine(Protocol):
    """A slice of a model over a KV cache of its own. For one thread only."""

    n_embd: int
    n_slots: int
    ctx_size: int
    window_max: int
    rows_min: int

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; 0 where they are not looked at."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """Those that end a text; known where the head is."""
        ...

    def decode(self, rows: BatchTokens, states: States | None = None, aborted: AbortFlag | None = None) -> States:
        """One pass: the states behind the slice, or with the head nothing but `logits`. Aborted, it is CANCELLED."""
        ...

    def logits(self, row: int) -> Logits:
        """The logits of a row of the last pass."""
        ...

    def session(self, spec: SessionSpec) -> tuple[Sampler, Report | None]:
        """What picks a session's tokens, and what reports on them; with the head only."""
        ...

    def rollback(self, slot: int, position: int) -> bool:
        """Forget a slot's rows from `position` on; false where that cannot be."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Make one slot equal to another."""
        ...

    def clear(self, slot: int) -> None:
        """Forget a whole slot."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


@dataclass(frozen=True, slots=True)
class StageItem:
    """An item to compute and the states of its rows; the first stage has none."""

    item: WindowItem
    states: States | None = None

    @property
    def output_from(self) -> int:
        """The first row that is judged."""
        return self.item.committed - 1 if self.item.picks else len(self.item.tokens)


@dataclass(slots=True)
class ComputeBlock:
    """What the engine computes at once: neighbouring slots with equally many rows, padded where need be."""

    rows: BatchTokens
    states: States | None
    jobs: list[StageItem]
    starts: dict[int, int]
    """The row at which each job's slot begins."""
    padded: list[int]
    """Slots that hold throw-away rows afterwards."""


class BlockLayout:
    """Makes blocks of jobs."""

    def __init__(self, engine: SliceEngine) -> None:
        rules = BatchRules(engine.window_max, streams=True, can_pad=True, rows_min=engine.rows_min)
        self._planner = BatchPlanner(rules)
        self._n_embd = engine.n_embd

    def blocks(self, jobs: Sequence[StageItem], end_of: Callable[[int], int]) -> Iterator[ComputeBlock]:
        """The fewest and smallest blocks; `end_of` says where slots that are padding alone stand."""
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
