"""Removes tokens from a context: by removing their KV cells, or by loading an earlier state of the model."""

from collections.abc import Sequence
from typing import Protocol

from twd.engine.context import Context
from twd.engine.rollback.checkpoints import Checkpoint, Checkpoints, stops


class Undo(Protocol):
    """How a context rolls back. `padding`: whether padding tokens may follow the tokens of a window."""

    padding: bool

    def before(self, slot: int, at: int, rows: int, drafts: int) -> None:
        """Prepare for a pass of `rows` tokens from position `at`; the last `drafts` of them may be rolled back."""
        ...

    def back(self, slot: int, position: int) -> int:
        """Remove the tokens of a slot from `position` on. Returns the slot's new end: `position`, or earlier."""
        ...

    def repair(self, slot: int, position: int) -> int:
        """The same after a failed pass, of which any part may have been computed."""
        ...

    def reach(self, slot: int, fed: int, position: int) -> int:
        """The position at which a slot of `fed` tokens would end if it rolled back to `position`."""
        ...

    def copy(self, source: int, slot: int, fed: int, position: int) -> int:
        """Copy the first `position` tokens of `source` to `slot`. Returns how many it holds: more or fewer may be."""
        ...

    def stops(self, prompt: Sequence[int], cached: int, parted: int) -> list[int]:
        """The positions of this prompt at which to call `keep`."""
        ...

    def keep(self, slot: int, position: int) -> None:
        """Save the state of a slot that now ends at `position`, so that another prompt can start from there."""
        ...


class CellUndo:
    """For models in which each token has its own KV cells, so that any number of tokens can be removed."""

    def __init__(self, context: Context, padding: bool = True) -> None:
        self._context = context
        self.padding = padding

    def before(self, slot: int, at: int, rows: int, drafts: int) -> None:
        """Nothing to do."""

    def back(self, slot: int, position: int) -> int:
        """Remove the cells from `position` on; all cells of the slot if llama.cpp refuses that."""
        if self._context.rollback(slot, position):
            return position
        self._context.clear(slot)
        return 0

    repair = back

    def reach(self, slot: int, fed: int, position: int) -> int:
        """Always exactly `position`."""
        return position

    def copy(self, source: int, slot: int, fed: int, position: int) -> int:
        """Copy all cells. The caller removes those after `position` later."""
        self._context.clear(slot)
        self._context.copy(source, slot)
        return fed

    def stops(self, prompt: Sequence[int], cached: int, parted: int) -> list[int]:
        """No positions."""
        return []

    def keep(self, slot: int, position: int) -> None:
        """Nothing to do."""


class StateUndo:
    """For models with a recurrent state, from which single tokens cannot be removed.

    Snapshots of the state can undo the last tokens of a pass. If there are too few snapshots, the state is
    saved before a pass with drafts, and loaded again if a draft was rejected. Then the accepted tokens are computed
    again with the next window.
    """

    padding = False

    def __init__(self, context: Context, bytes_max: int, marks: frozenset[int] = frozenset()) -> None:
        slots = context.settings.parallel
        self._context = context
        self._marks = marks
        self._snapshots = context.snapshots
        self._undoable = [0] * slots
        """For each slot, how many tokens of the last pass the snapshots can undo."""
        self._before: list[Checkpoint | None] = [None] * slots
        self.kept = Checkpoints(bytes_max)

    def before(self, slot: int, at: int, rows: int, drafts: int) -> None:
        """Save the state if the snapshots cannot undo all drafts."""
        self._undoable[slot] = min(self._snapshots, rows - 1)
        before = self._before[slot]
        if drafts <= self._undoable[slot] or not at or (before is not None and before.position == at):
            return
        state = self._context.save_state(slot, before.state if before is not None else None)
        self._before[slot] = Checkpoint(at, state) if state is not None else None

    def back(self, slot: int, position: int) -> int:
        """Roll back by the snapshots of the last pass, or else by the latest saved state."""
        steps = self._context.end(slot) - position
        if steps == 0:
            return position
        undoable, self._undoable[slot] = self._undoable[slot], 0  # llama.cpp can undo only once between two passes
        self._forget(slot, position)
        if position and 0 < steps <= undoable and self._context.rollback(slot, position):
            return position
        return self._load(slot, self._latest(slot, position))

    def repair(self, slot: int, position: int) -> int:
        """Load the latest saved state. The state after a failed pass is not trusted."""
        self._undoable[slot] = 0
        self._forget(slot, position)
        return self._load(slot, self._latest(slot, position))

    def reach(self, slot: int, fed: int, position: int) -> int:
        """`fed` if the slot ends at or before `position`; else the latest checkpoint up to `position`, or 0."""
        if fed <= position:
            return fed
        found = self._latest(slot, position, used=False)
        return found.position if found is not None else 0

    def copy(self, source: int, slot: int, fed: int, position: int) -> int:
        """Copy the cells of the source and load the state that it had at `position`, or at the latest checkpoint
        before; 0 if there is none."""
        state = self._context.save_state(source) if fed == position else None
        found = Checkpoint(position, state) if state is not None else self._latest(source, position)
        self._forget(slot, 0)
        self._context.clear(slot)
        if found is None:
            return 0
        self._context.copy(source, slot)
        self._undoable[slot] = 0
        at = self._load(slot, found)
        if at:
            self.kept.add(slot, at, found.state.copy())  # because `before` overwrites its state
        return at

    def stops(self, prompt: Sequence[int], cached: int, parted: int) -> list[int]:
        """Borders of messages, and growing distances from the prompt's end."""
        if not self.kept.bytes_max:
            return []
        return stops(prompt, cached, parted, self._marks, self._context.settings.ubatch)

    def keep(self, slot: int, position: int) -> None:
        """Save the state, if it fits the memory limit."""
        state = self._context.save_state(slot)
        if state is not None and state.nbytes <= self.kept.bytes_max:
            self.kept.add(slot, position, state)

    def _latest(self, slot: int, position: int, *, used: bool = True) -> Checkpoint | None:
        kept, before = (self.kept.use if used else self.kept.best)(slot, position), self._before[slot]
        if before is None or before.position > position:
            return kept
        return before if kept is None or before.position >= kept.position else kept

    def _forget(self, slot: int, beyond: int) -> None:
        self.kept.forget(slot, beyond)
        before = self._before[slot]
        if before is not None and before.position > beyond:
            self._before[slot] = None

    def _load(self, slot: int, found: Checkpoint | None) -> int:
        """Load a checkpoint and remove the cells after it; empty the slot if there is none or loading fails.

        Returns the slot's new end position.
        """
        if found is not None and self._stands(slot, found):
            return found.position
        self._context.clear(slot)
        self._forget(slot, 0)
        return 0

    def _stands(self, slot: int, found: Checkpoint) -> bool:
        context, position = self._context, found.position
        loaded = context.load_state(slot, found.state) and context.rollback(slot, position)
        return loaded and context.end(slot) == position
