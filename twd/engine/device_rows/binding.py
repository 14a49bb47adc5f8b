"""The rows of logits on a device (contrib/llama/device_rows.cpp), as Python calls them."""

import ctypes
import enum
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, Final

import numpy as np

from twd.decoding.steps import PickRule
from twd.decoding.window import Logits
from twd.engine.steps import binding
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling

_POINTER: Final = ctypes.c_void_p
_INT: Final = ctypes.c_int32


@cache
def rows_available() -> bool:
    """Whether this build of llama.cpp can leave logits on a device, and choose there."""
    return _find("open") is not None and _find("choose") is not None


def _find(name: str) -> Any:
    return getattr(binding.library(), f"twd_rows_{name}", None)


class LogitsPlace(enum.IntEnum):
    """Where logits are computed, as native code calls it."""

    CARD = 0
    """On a card of this machine; not on its processor, where they are home already."""
    FAR = 1
    """On another machine."""
    ANYWHERE = 2
    """Wherever it is, the processor included."""


class DeviceRows:
    """The logits of each pass of one context, which stay where they were computed.

    A row comes home alone and when it is asked for. To choose from it, some of its blocks do, as a rule.
    """

    def __init__(self, handle: int, size: int) -> None:
        self.handle = handle
        """For native code."""
        self._begin, self._choose, self._logits, self._close = map(_find, ("begin", "choose", "logits", "close"))
        self._fetched, self._use_blocks = map(_find, ("fetched", "use_blocks"))
        self._use_blocks.argtypes, self._use_blocks.restype = [_POINTER, _INT], None
        self._begin.argtypes, self._begin.restype = [_POINTER, _INT], _INT
        self._choose.argtypes = [_POINTER, _INT, _POINTER, _POINTER, _INT, _INT, _INT, _POINTER]
        self._choose.restype = None
        self._fetched.argtypes, self._fetched.restype = [_POINTER], ctypes.c_int64
        self._largest = binding.RuleHolder(PickRule(Sampling(), 0))
        self._logits.argtypes, self._logits.restype = [_POINTER, _INT], _POINTER
        self._close.argtypes, self._close.restype = [_POINTER], None
        self._row_type = ctypes.c_float * size
        self._views: dict[int, Logits] = {}
        self._outputs: list[int] = []
        """For each row of the batch how many outputs there are up to it."""

    @classmethod
    def open(cls, context: int, sequences: int, size: int, place: LogitsPlace) -> "DeviceRows | None":
        """Leave the logits of a context where they are computed from now on. None: that place is another one, or this
        build or the device cannot do it."""
        if not rows_available():
            return None
        start = _find("open")
        start.argtypes, start.restype = [_POINTER, _INT, _INT], _POINTER
        handle = start(context, sequences, place)
        return cls(handle, size) if handle else None

    def begin(self, outputs: Sequence[bool]) -> bool:
        """A pass was computed. Returns false if its logits are not where they should be."""
        self._outputs = list(accumulate(outputs, initial=0))
        return bool(self._begin(self.handle, self._outputs[-1]))

    def pick(self, row: int, judges: int = 0) -> binding.NativePick:
        """The token with the largest logit at index `row` of the batch, the first of them. -1: see the logits.
        `judges`: 1 for its chance, 2 for the second choice, too."""
        return self.choose(row, self._largest, (), judges)

    def choose(self, row: int, rule: binding.RuleHolder, history: Sequence[int], judges: int = 0) -> binding.NativePick:
        """The token that a rule chooses behind `history` at index `row` of the batch. -1: see the logits."""
        found, last = binding.NativePick(), rule.struct.repeat_last_n
        recent = np.array(history if last < 0 else history[-last:] if last else (), np.int32)
        text = (recent.ctypes.data, len(recent), len(history))
        self._choose(self.handle, self._outputs[row], rule.address, *text, judges, ctypes.byref(found))
        return found

    def use_blocks(self, wanted: bool) -> None:
        """Whether sampled picks look at blocks of a row first. Otherwise the whole row comes home."""
        self._use_blocks(self.handle, wanted)

    @property
    def fetched(self) -> int:
        """How many numbers came home for the last choice, besides those that come with each pass."""
        return int(self._fetched(self.handle))

    def logits(self, row: int) -> Logits:
        """The logits at index `row` of the batch: a view that the next pass overwrites."""
        wanted = self._outputs[row + 1] > self._outputs[row]
        address = self._logits(self.handle, self._outputs[row]) if wanted else None
        if not address:
            raise TwdError(FailureCode.INTERNAL, f"row {row} of the last pass gave no logits")
        view = self._views.get(address)
        if view is None:
            view = self._views[address] = np.ctypeslib.as_array(self._row_type.from_address(address))
        return view

    def close(self) -> None:
        """Logits come home again. Call it before the context is freed; a second call does nothing."""
        if self.handle:
            self._views.clear()
            self._close(self.handle)
            self.handle = 0
