"""Which experts a model chooses, caught while llama.cpp computes."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from twd.engine.context import BatchTokens, Context, ContextSettings, Logits
from twd.engine.library import ggml, llama
from twd.engine.model import LoadedGguf

_TOP: Final = b"ffn_moe_topk-"
_DIMENSIONS: Final = 4

Heard = Callable[[int, Sequence[int]], None]
"""Told a layer and the experts that one token chose there."""


class _Tensor(ctypes.Structure):
    """The beginning of ggml's tensor."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMENSIONS),
        ("nb", ctypes.c_size_t * _DIMENSIONS),
    ]


class ExpertListener:
    """llama.cpp's `cb_eval`: it asks at each node of the graph, and only the choices are read. Costs about a tenth."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._pass: dict[int, list[list[int]]] = {}
        self._name = ggml("ggml_get_name", [ctypes.c_void_p], ctypes.c_void_p)
        stretch = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._read = ggml("ggml_backend_tensor_get", stretch, None)
        self.callback = llama.ggml_backend_sched_eval_callback(self._answer)

    def _answer(self, tensor: int, asking: bool, _: object) -> bool:
        name = ctypes.string_at(self._name(tensor))
        if asking:
            return name.startswith(_TOP)
        layer = name[len(_TOP) :]
        if layer.isdigit():
            self._pass[int(layer)] = list(self._rows(tensor))
        return True

    def tell(self) -> None:
        """Tell the choices of the last pass token by token. A layer that saw some tokens only saw the last ones."""
        most = max(map(len, self._pass.values()), default=0)
        for back in range(most, 0, -1):
            for layer, rows in sorted(self._pass.items()):
                if back <= len(rows):
                    self._heard(layer, rows[-back])
        self._pass.clear()

    def _rows(self, tensor: int) -> Iterator[list[int]]:
        """One row for each token; rows of this view do not follow each other closely."""
        facts = ctypes.cast(tensor, ctypes.POINTER(_Tensor)).contents
        row = np.empty(facts.ne[0], np.int32)
        for number in range(facts.ne[1]):
            self._read(tensor, row.ctypes.data, number * facts.nb[1], row.nbytes)
            yield row.tolist()


class ListeningContext(Context):
    """A context that tells which experts each token chooses."""

    def __init__(self, model: LoadedGguf, settings: ContextSettings, heard: Heard) -> None:
        self._listener = ExpertListener(heard)
        super().__init__(model, settings)

    def _parameters(self) -> Any:
        parameters = super()._parameters()
        parameters.cb_eval = self._listener.callback
        return parameters

    def decode(self, rows: BatchTokens, states: Logits | None = None) -> None:
        super().decode(rows, states)
        self.synchronize()
        self._listener.tell()
