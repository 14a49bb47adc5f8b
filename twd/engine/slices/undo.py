"""Goes back in one slice of a model whose layers keep a recurrent state.

Snapshots undo a part of the last pass. Otherwise a state that was saved not long before is loaded, and the
few tokens after it are computed again from what came into the slice. So a stage needs nobody's help to go back.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from twd.engine.context import BatchTokens, Context, Logits, SavedState
from twd.wire.failures import TwdError

UNLIMITED = 2**31 - 1
REACH = 256
"""How many tokens a slot can always go back."""
_APART = 32
"""The least distance between saved states in tokens."""
_FEWEST, _MOST = 2, 9

Compute = Callable[[BatchTokens, Logits | None], None]
"""Computes tokens of one slot without outputs; the states of the slice before, unless it is the first."""


@dataclass(slots=True)
class _Saved:
    """The state of a slot after its first `position` tokens; None: nothing."""

    position: int
    state: SavedState | None


@dataclass(slots=True)
class _Came:
    """What came in with one pass of a slot."""

    at: int
    tokens: list[int]
    states: Logits | None

    @property
    def end(self) -> int:
        return self.at + len(self.tokens)

    def before(self, position: int) -> "_Came":
        count = position - self.at
        return _Came(self.at, self.tokens[:count], None if self.states is None else self.states[:count])

    def after(self, position: int) -> "_Came":
        skip = max(position - self.at, 0)
        return _Came(self.at + skip, self.tokens[skip:], None if self.states is None else self.states[skip:])


@dataclass(slots=True)
class _SlotPast:
    """The saved states of a slot in ascending order, and all that came in since the first of them."""

    end: int = 0
    undoable: int = 0
    """How many tokens of the last pass the snapshots can undo."""
    saved: list[_Saved] = field(default_factory=list)
    came: list[_Came] = field(default_factory=list)


class SliceUndo:
    """Saves states now and then, and goes back to any of the last `REACH` tokens of a slot."""

    def __init__(self, context: Context, compute: Compute, apart: int) -> None:
        """`apart`: the distance between saved states in tokens."""
        self._context = context
        self._compute = compute
        self._apart = apart
        self._pasts = [_SlotPast() for _ in range(context.settings.parallel)]

    def before(self, slot: int, at: int) -> None:
        """Before a pass that goes on at `at`: save the state if the last saved one is far behind."""
        past = self._pasts[slot]
        if not at:
            self._pasts[slot] = _SlotPast(saved=[_Saved(0, None)])
        elif not past.saved or at - past.saved[-1].position >= self._apart:
            past.saved.append(_Saved(at, self._context.save_state(slot)))
            while len(past.saved) > 1 and past.saved[1].position <= at - REACH:
                del past.saved[0]
            past.came = [one for one in past.came if one.end > past.saved[0].position]

    def computed(self, slot: int, at: int, tokens: list[int], states: Logits | None) -> None:
        """After a pass of these tokens."""
        past = self._pasts[slot]
        past.came.append(_Came(at, tokens, states))
        past.end = at + len(tokens)
        past.undoable = min(self._context.snapshots, len(tokens) - 1)

    def back(self, slot: int, position: int) -> bool:
        """Go back to `position`; false if the slot was emptied instead."""
        past = self._pasts[slot]
        steps = past.end - position
        if steps <= 0:
            return True
        undoable, past.undoable = past.undoable, 0  # llama.cpp can undo only once between two passes
        if position and steps <= undoable and self._context.rollback(slot, position):
            self._cut(past, position)
            return True
        return self.repair(slot, position)

    def repair(self, slot: int, position: int) -> bool:
        """The same by a saved state; also after a failed pass, of which any part may have been computed."""
        past = self._pasts[slot]
        past.undoable = 0
        fit = [one for one in past.saved if one.position <= position]
        if position and fit and self._load(slot, fit[-1]):
            self._cut(past, position)
            return self._replay(slot, fit[-1].position, position)
        self.clear(slot)
        return position == 0

    def copy(self, source: int, slot: int) -> None:
        """The cells of `slot` are now a copy of those of `source`."""
        past = self._pasts[source]
        self._pasts[slot] = _SlotPast(past.end, 0, list(past.saved), list(past.came))

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        self._context.clear(slot)
        self._pasts[slot] = _SlotPast()

    def _cut(self, past: _SlotPast, position: int) -> None:
        past.end = position
        past.saved = [one for one in past.saved if one.position <= position]
        past.came = [one if one.end <= position else one.before(position) for one in past.came if one.at < position]

    def _load(self, slot: int, saved: _Saved) -> bool:
        if saved.state is None:
            self._context.clear(slot)
            return saved.position == 0
        loaded = self._context.load_state(slot, saved.state) and self._context.rollback(slot, saved.position)
        return loaded and self._context.end(slot) == saved.position

    def _replay(self, slot: int, start: int, position: int) -> bool:
        try:
            for one in self._pasts[slot].came:
                if one.end > start:
                    self._again(slot, one.after(start))
        except TwdError:
            self.clear(slot)
            return False
        return self._context.end(slot) == position

    def _again(self, slot: int, came: _Came) -> None:
        rows = BatchTokens()
        rows.add(slot, came.at, came.tokens, output_from=len(came.tokens))
        self._compute(rows, came.states)


def apart(free_bytes: int, state_bytes: int, slots: int) -> int:
    """The distance between saved states so that those of all slots fit into the free memory."""
    count = free_bytes // max(state_bytes * slots, 1)
    return max(_APART, -(-REACH // (min(max(count, _FEWEST), _MOST) - 1)))
