"""The rows of logits on a device (contrib/llama/device_rows.cpp), as Python calls them."""

import ctypes
import enum
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, Final

import numpy as np

from twd.decoding.window import Logits
from twd.engine.steps import binding
from twd.wire.failures import FailureCode, TwdError

_POINTER: Final = ctypes.c_void_p
_INT: Final = ctypes.c_int32


@cache
def rows_available() -> bool:
    """Whether this build of llama.cpp can leave logits on a device."""
    return _find("open") is not None


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

    A row comes home alone and when it is asked for; where only its largest logit is wanted, a few hundred numbers do.
    """

    def __init__(self, handle: int, size: int) -> None:
        self.handle = handle
        """For native code."""
        self._begin, self._pick, self._logits, self._close = map(_find, ("begin", "pick", "logits", "close"))
        self._begin.argtypes, self._begin.restype = [_POINTER, _INT], _INT
        self._pick.argtypes, self._pick.restype = [_POINTER, _INT, _INT, _POINTER], None
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
        start = _find("open")
        if start is None:
            return None
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
        found = binding.NativePick()
        self._pick(self.handle, self._outputs[row], judges, ctypes.byref(found))
        return found

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
