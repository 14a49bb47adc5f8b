"""A trained head in a file of its own (EAGLE-3): it guesses tokens from the inputs of three of the target's layers.

The file is a small model that llama.cpp runs in two steps: an encoder makes one vector of the three, and one layer
reads it together with the next token. It may take its embedding and output matrix from the target.
"""

import ctypes
from collections.abc import Sequence

import numpy as np

from twd.engine.context import Context, Logits
from twd.engine.heads.binding import give_hidden_rows, give_layer_inputs, hidden_rows, layer_inputs
from twd.engine.heads.head import OwnHead
from twd.engine.library import last_errors, llama
from twd.engine.model import LoadedGguf
from twd.wire.failures import FailureCode, TwdError


class EagleHead(OwnHead):
    """A head of the target from a file of its own."""

    behind = 1
    _gives_all = True

    def __init__(self, target: Context, model: LoadedGguf, layers: Sequence[int]) -> None:
        self._layers = list(layers)
        self._wide = target.model.n_embd
        super().__init__(target, model)

    def _want_rows(self) -> None:
        for layer in self._layers:
            if layer < self._target.model.n_layer:
                give_layer_inputs(self._target.handle, layer)
            else:
                give_hidden_rows(self._target.handle, outputs_only=False)

    def pass_rows(self, count: int) -> Logits:
        """The inputs of the layers side by side: a copy."""
        return np.concatenate([self._inputs(layer, count) for layer in self._layers], axis=1)

    def read(self, slot: int, at: int, tokens: Sequence[int], rows: Logits) -> None:
        size = self._context.settings.ubatch
        parts = [self._encoded(rows[start : start + size]) for start in range(0, len(rows), size)]
        super().read(slot, at, tokens, np.concatenate(parts))

    def _inputs(self, layer: int, count: int) -> Logits:
        inside = layer < self._target.model.n_layer
        handle = self._target.handle
        address = layer_inputs(handle, layer) if inside else hidden_rows(handle)
        if not address:
            raise TwdError(
                FailureCode.UNSUPPORTED,
                f"llama.cpp gives out no layer inputs of {self._target.model.info.architecture} models",
            )
        row = ctypes.c_float * (self._wide * count)
        return np.ctypeslib.as_array(row.from_address(address)).reshape(count, self._wide)

    def _encoded(self, rows: Logits) -> Logits:
        """One vector for each token."""
        rows = np.ascontiguousarray(rows, np.float32)
        count = len(rows)
        batch = llama.llama_batch()
        batch.n_tokens = count
        batch.embd = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        wanted = np.ones(count, np.int8)
        batch.logits = wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        if llama.llama_encode(self._context.handle, batch):
            raise TwdError(FailureCode.INTERNAL, f"the head's encoder failed: {last_errors() or 'no reason'}")
        row = ctypes.c_float * (self._width * count)
        found = np.ctypeslib.as_array(row.from_address(hidden_rows(self._context.handle)))
        return found.reshape(count, self._width).copy()
