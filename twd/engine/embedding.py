"""Embeddings: the mean of a model's last hidden states, computed in a second context over the loaded weights."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from twd.engine.context import BatchTokens, CacheLayout, Context, ContextSettings
from twd.engine.model import LoadedGguf
from twd.wire.failures import FailureCode, TwdError

ROWS: Final = 64
Vector = npt.NDArray[np.float32]


class Embedder:
    """Makes embeddings; calls from several threads run one after the other. The first call creates the context."""

    def __init__(self, model: LoadedGguf, settings: ContextSettings) -> None:
        self._model = model
        self._settings = replace(
            settings, parallel=1, branches=0, layout=CacheLayout.UNIFIED, ubatch=ROWS, embeddings=True
        )
        self._turn = threading.Lock()
        self._context: Context | None = None
        self._closed = False

    @property
    def dimensions(self) -> int:
        """The number of elements of an embedding."""
        return self._model.n_embd

    def embed(self, tokens: Sequence[int]) -> Vector:
        """The embedding of a text, normalized to length 1."""
        if not tokens:
            raise TwdError(FailureCode.BAD_REQUEST, "the input is empty; send at least one character", "input")
        if len(tokens) > self._settings.ctx_size:
            message = f"an input of {len(tokens)} tokens is over ctx_size {self._settings.ctx_size}"
            raise TwdError(FailureCode.CONTEXT_OVERFLOW, message, "input")
        with self._turn:
            mean = self._sum(tokens) / len(tokens)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)

    def close(self) -> None:
        """Free the context, after waiting for a running call."""
        self._closed = True
        with self._turn:
            if self._context is not None:
                self._context.close()

    def _open(self) -> Context:
        if self._closed:
            raise TwdError(FailureCode.WORKER_LOST, "the model is being unloaded")
        if self._context is None:
            self._context = Context(self._model, self._settings)
        return self._context

    def _sum(self, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
        total = np.zeros(self.dimensions)
        self._open().clear(0)
        for at in range(0, len(tokens), ROWS):
            context, rows = self._open(), BatchTokens()
            rows.add(0, at, tokens[at : at + ROWS])
            context.decode(rows)
            for row in range(len(rows)):
                total += context.embedding(row)
        return total
