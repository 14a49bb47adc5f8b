"""Reads which experts a model uses for each token, while llama.cpp computes."""

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
"""Called with a layer, and the experts chosen there for one token."""


class _Tensor(ctypes.Structure):
    """The first fields of ggml's tensor struct."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMENSIONS),
        ("nb", ctypes.c_size_t * _DIMENSIONS),
    ]


class ExpertListener:
    """A `cb_eval` for llama.cpp, which calls it at each node of the graph. It reads only the nodes with the choices of
    experts. It makes a pass about 10 % slower."""

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
        """Report the choices of the last pass, token by token. A layer with fewer tokens has only the last ones."""
        most = max(map(len, self._pass.values()), default=0)
        for back in range(most, 0, -1):
            for layer, rows in sorted(self._pass.items()):
                if back <= len(rows):
                    self._heard(layer, rows[-back])
        self._pass.clear()

    def _rows(self, tensor: int) -> Iterator[list[int]]:
        """The chosen experts of each token. Rows of this view are not contiguous, so they are read one by one."""
        facts = ctypes.cast(tensor, ctypes.POINTER(_Tensor)).contents
        row = np.empty(facts.ne[0], np.int32)
        for number in range(facts.ne[1]):
            self._read(tensor, row.ctypes.data, number * facts.nb[1], row.nbytes)
            yield row.tolist()


class ListeningContext(Context):
    """A context that reports which experts are chosen for each token."""

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
