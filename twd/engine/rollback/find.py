"""Finds out by trying how a model can roll back, and sets up a context for it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from twd.drafting.undo_cost import UndoCost
from twd.engine.context import BatchTokens, CacheLayout, Context, ContextSettings
from twd.engine.host_memory.limits import available_bytes, gib
from twd.engine.model import LoadedGguf
from twd.engine.probe import can_rollback
from twd.engine.rollback.undo import CellUndo, StateUndo, Undo
from twd.wire.failures import TwdError

_log = logging.getLogger("twd.engine")

_SHARE = 4
"""Snapshots and checkpoints each take at most 1/4 of the free memory and 1/4 of the model's file size."""
_LEAST = 64 * 2**20
"""If 1/4 of the model's file size is less than this, the limit is this many bytes instead."""
_FEWEST = 2
_TRIES = 3


@dataclass(frozen=True, slots=True)
class FoundUndo:
    """How a context rolls back, and what that costs."""

    undo: Undo | None
    snapshots: int = 0
    state_bytes: int = 0
    cost: UndoCost | None = None
    """The cost of a window with drafts, if it is rolled back by a checkpoint and not by snapshots."""
    reason: str = ""
    """Why there are not as many snapshots as wanted."""

    @property
    def works(self) -> bool:
        """Whether it can roll back at all."""
        return self.undo is not None

    @property
    def drafts_max(self) -> int | None:
        """The most drafts in one window; None: as many as fit a pass."""
        return self.snapshots or None

    def describe(self) -> str:
        """A text for status and logs; empty for models that simply remove KV cells."""
        if self.undo is None:
            return "this model cannot take tokens back, and its state cannot be saved, so it takes no drafts"
        if self.snapshots:
            told = f"rejected drafts: undone by {self.snapshots} snapshots of the state, {gib(self.state_bytes)} each"
        elif self.cost is not None:
            told = (
                f"rejected drafts: undone by a checkpoint of {gib(self.state_bytes)}, "
                f"{self.cost.save_ms:.2f} ms to save and {self.cost.load_ms:.2f} ms to load"
            )
        else:
            return ""
        return f"{told}; {self.reason}" if self.reason else told


def open_undoable(model: LoadedGguf, settings: ContextSettings, drafts_max: int) -> tuple[Context, FoundUndo]:
    """Make a context of a model; returns it and how it rolls back.

    A model that cannot remove single tokens gets snapshots of its state if its architecture has them: `drafts_max`, or
    fewer if memory is short. Otherwise it gets checkpoints.
    """
    context = Context(model, replace(settings, snapshots=0))
    try:
        if can_rollback(context):
            return context, FoundUndo(CellUndo(context))
        if settings.layout is CacheLayout.TREE:
            return context, FoundUndo(None)
        state = _state_bytes(context)
    except BaseException:
        context.close()
        raise
    if not state:
        return context, FoundUndo(None)
    context, reason = _with_snapshots(context, state, drafts_max)
    try:
        return context, _found(context, state, reason)
    except BaseException:
        context.close()
        raise


def _with_snapshots(context: Context, state: int, wanted: int) -> tuple[Context, str]:
    """A new context with snapshots, and why there are fewer than wanted. The old context if memory is too short."""
    settings, model = context.settings, context.model
    if not model.may_snapshot:
        return context, ""
    count = min(wanted, _budget(model) // (state * settings.parallel))
    if count < _FEWEST:
        return context, f"no memory for {wanted} snapshots of {gib(state)} for each of {settings.parallel} sessions"
    context.close()
    try:
        context = Context(model, replace(settings, snapshots=count))
    except TwdError as error:
        _log.warning("no snapshots of the state: %s", error)
        return Context(model, settings), "there was no memory for snapshots"
    fewer = context.snapshots and count < wanted
    return context, f"memory is short for {wanted}" if fewer else ""


def _found(context: Context, state: int, reason: str) -> FoundUndo:
    undo = StateUndo(context, _budget(context.model), _marks(context.model))
    if context.snapshots:
        return FoundUndo(undo, context.snapshots, state, reason=reason)
    cost = _measured(context)
    return FoundUndo(undo if cost is not None else None, 0, state, cost, reason)


def _budget(model: LoadedGguf) -> int:
    return min(available_bytes() // _SHARE, max(_LEAST, model.info.size_bytes // _SHARE))


def _marks(model: LoadedGguf) -> frozenset[int]:
    """The control tokens; they mark the borders of messages."""
    return frozenset(model.vocab.special_tokens.values()) if model.vocab.kind != "none" else frozenset()


def _state_bytes(context: Context) -> int:
    """The size of the state after a few tokens, in bytes; 0 if it cannot be saved."""
    _feed(context)
    size = context.state_bytes(0)
    saved = context.save_state(0)
    context.clear(0)
    return size if saved is not None else 0


def _measured(context: Context) -> UndoCost | None:
    """The cost of saving and loading a state in ms; None if a loaded state does not have the position of the saved."""
    _feed(context)
    end, saved = context.end(0), context.save_state(0)
    if saved is None or not context.load_state(0, saved) or context.end(0) != end:
        context.clear(0)
        return None
    kept = saved
    save_ms = _least_ms(lambda: context.save_state(0, kept))
    load_ms = _least_ms(lambda: context.load_state(0, kept))
    context.clear(0)
    return UndoCost(save_ms, load_ms)


def _least_ms(do: Callable[[], object]) -> float:
    taken = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        do()
        taken.append((time.perf_counter() - began) * 1000)
    return min(taken)


def _feed(context: Context) -> None:
    rows = BatchTokens()
    rows.add(0, 0, [0, 0, 0], output_from=3)
    context.decode(rows)
