"""Takes tokens back out of a context: by removing their cells, or by an earlier state of the model."""

from collections.abc import Sequence
from typing import Protocol

from twd.engine.context import Context
from twd.engine.rollback.checkpoints import Checkpoint, Checkpoints, stops


class Undo(Protocol):
    """How a context goes back. `padding`: throw-away rows may follow those of a window."""

    padding: bool

    def before(self, slot: int, at: int, rows: int, drafts: int) -> None:
        """A pass of `rows` tokens from `at` on is next, of which the last `drafts` may be taken back."""
        ...

    def back(self, slot: int, position: int) -> int:
        """Forget what a slot holds from `position` on; returns where it stands: there, or earlier."""
        ...

    def repair(self, slot: int, position: int) -> int:
        """The same after a pass that failed, of which anything may have been computed."""
        ...

    def reach(self, slot: int, fed: int, position: int) -> int:
        """Where a slot of `fed` tokens would stand if it went back to `position`."""
        ...

    def copy(self, source: int, slot: int, fed: int, position: int) -> int:
        """Make a slot hold the first `position` tokens of another, or more; returns how many."""
        ...

    def stops(self, prompt: Sequence[int], cached: int, parted: int) -> list[int]:
        """Where reading this prompt should stop for `keep`."""
        ...

    def keep(self, slot: int, position: int) -> None:
        """A slot stands at `position`, and may want to come back there for another prompt."""
        ...


class CellUndo:
    """Each token has cells of its own, so any number of tokens can be removed at once."""

    def __init__(self, context: Context, padding: bool = True) -> None:
        self._context = context
        self.padding = padding

    def before(self, slot: int, at: int, rows: int, drafts: int) -> None:
        """Nothing to do."""

    def back(self, slot: int, position: int) -> int:
        """Remove the cells, or all of them where that is refused."""
        if self._context.rollback(slot, position):
            return position
        self._context.clear(slot)
        return 0

    repair = back

    def reach(self, slot: int, fed: int, position: int) -> int:
        """Exactly there."""
        return position

    def copy(self, source: int, slot: int, fed: int, position: int) -> int:
        """All cells are copied; what is too much is removed later."""
        self._context.clear(slot)
        self._context.copy(source, slot)
        return fed

    def stops(self, prompt: Sequence[int], cached: int, parted: int) -> list[int]:
        """Nowhere."""
        return []

    def keep(self, slot: int, position: int) -> None:
        """Nothing to do."""


class StateUndo:
    """For models that keep a running state, from which no single token can be taken.

    Snapshots that llama.cpp keeps of the state undo the last rows of a pass. Where there are too few, the state is
    saved before a pass with drafts, and loaded again if some of them were wrong: the tokens that stand are then fed
    again together with the next window.
    """

    padding = False

    def __init__(self, context: Context, bytes_max: int, marks: frozenset[int] = frozenset()) -> None:
        slots = context.settings.parallel
        self._context = context
        self._marks = marks
        self._snapshots = context.snapshots
        self._undoable = [0] * slots
        """How many rows of the last pass the snapshots can take back."""
        self._before: list[Checkpoint | None] = [None] * slots
        self.kept = Checkpoints(bytes_max)

    def before(self, slot: int, at: int, rows: int, drafts: int) -> None:
        """Save the state where the snapshots would not be enough."""
        self._undoable[slot] = min(self._snapshots, rows - 1)
        before = self._before[slot]
        if drafts <= self._undoable[slot] or not at or (before is not None and before.position == at):
            return
        state = self._context.save_state(slot, before.state if before is not None else None)
        self._before[slot] = Checkpoint(at, state) if state is not None else None

    def back(self, slot: int, position: int) -> int:
        """By the snapshots of the last pass, or else by the latest state that was saved."""
        steps = self._context.end(slot) - position
        if steps == 0:
            return position
        undoable, self._undoable[slot] = self._undoable[slot], 0  # llama.cpp takes back once between two passes
        self._forget(slot, position)
        if position and 0 < steps <= undoable and self._context.rollback(slot, position):
            return position
        return self._load(slot, self._latest(slot, position))

    def repair(self, slot: int, position: int) -> int:
        """Nothing that the failed pass touched is trusted."""
        self._undoable[slot] = 0
        self._forget(slot, position)
        return self._load(slot, self._latest(slot, position))

    def reach(self, slot: int, fed: int, position: int) -> int:
        """The end of what it holds, or a checkpoint before it."""
        if fed <= position:
            return fed
        found = self._latest(slot, position, used=False)
        return found.position if found is not None else 0

    def copy(self, source: int, slot: int, fed: int, position: int) -> int:
        """The cells of the source, and the state that it had at `position`."""
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
            self.kept.add(slot, at, found.state.copy())  # the one before a window is overwritten later
        return at

    def stops(self, prompt: Sequence[int], cached: int, parted: int) -> list[int]:
        """Borders of messages and distances that grow."""
        if not self.kept.bytes_max:
            return []
        return stops(prompt, cached, parted, self._marks, self._context.settings.ubatch)

    def keep(self, slot: int, position: int) -> None:
        """Save the state, within the bound."""
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
        """The state of a checkpoint, and no cells behind it; an empty slot where there is none."""
        if found is not None and self._stands(slot, found):
            return found.position
        self._context.clear(slot)
        self._forget(slot, 0)
        return 0

    def _stands(self, slot: int, found: Checkpoint) -> bool:
        context, position = self._context, found.position
        loaded = context.load_state(slot, found.state) and context.rollback(slot, position)
        return loaded and context.end(slot) == position
