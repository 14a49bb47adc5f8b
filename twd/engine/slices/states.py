"""Reads the hidden states after a slice's last layer, and puts in those of the slice before."""

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from twd.engine.context import Context, ContextSettings, Logits
from twd.engine.library import ggml, llama
from twd.engine.model import LoadedGguf
from twd.wire.failures import FailureCode, TwdError

_SET_LAYER_INPUT = "_Z30llama_set_embeddings_layer_inpP13llama_contextjb"
_GET_LAYER_INPUT = "_Z30llama_get_embeddings_layer_inpP13llama_contextj"
_FLOAT_BYTES = 4


class SliceStates(Protocol):
    """How a slice's context reads and writes hidden states."""

    @property
    def callback(self) -> object | None:
        """llama.cpp's `cb_eval`, if needed."""
        ...

    @property
    def outputs(self) -> bool:
        """Whether every token must be an output so that its state is computed."""
        ...

    def attach(self, context: int) -> None:
        """Called when the context exists."""
        ...

    def begin(self, incoming: Logits | None) -> None:
        """Called before a pass on these states; None: the pass takes tokens."""
        ...

    def of_pass(self, rows: int) -> Logits:
        """A copy of the states of the last pass, for `rows` tokens."""
        ...


class LayerInput:
    """Reads the input of the layer of zeros after the slice, which llama.cpp gives out at almost no cost."""

    callback = None
    outputs = False

    def __init__(self, layer: int, width: int) -> None:
        self._layer = layer
        self._width = width
        self._context = 0

    @staticmethod
    def available() -> bool:
        """Whether this build of llama.cpp exports the functions; they are not a part of its public interface."""
        return _internal(_GET_LAYER_INPUT) is not None and _internal(_SET_LAYER_INPUT) is not None

    def attach(self, context: int) -> None:
        enable = _require(_SET_LAYER_INPUT)
        enable.argtypes, enable.restype = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool], None
        enable(context, self._layer, True)
        self._get = _require(_GET_LAYER_INPUT)
        self._get.argtypes, self._get.restype = [ctypes.c_void_p, ctypes.c_uint32], ctypes.POINTER(ctypes.c_float)
        self._context = context

    def begin(self, incoming: Logits | None) -> None:
        """Nothing to prepare."""

    def of_pass(self, rows: int) -> Logits:
        return np.array(np.ctypeslib.as_array(self._get(self._context, self._layer), (rows, self._width)))


class CallbackStates:
    """Uses a callback that llama.cpp calls at every node of its graph: about 1 us each, so 25-30 us for each layer.

    It copies the output of the last layer and stops the pass there, so the norm and the head are not computed. If an
    architecture scales its input, it writes the true states back after the scaling.
    """

    def __init__(self, wanted: str, width: int, rows: int, *, tail: bool, restored: str) -> None:
        """`wanted`: the node with the states after the slice. `restored`: the node after which to write the incoming
        states. An empty name: none."""
        self.outputs = not tail
        self._wanted = wanted.encode()
        self._restored = restored.encode()
        self._row_bytes = width * _FLOAT_BYTES
        self._caught = np.empty((rows, width), np.float32)
        self._count = 0
        self._incoming: Logits | None = None
        self._used = 0
        self._name = ggml("ggml_get_name", [ctypes.c_void_p], ctypes.c_void_p)
        self._size = ggml("ggml_nbytes", [ctypes.c_void_p], ctypes.c_size_t)
        stretch = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._read = ggml("ggml_backend_tensor_get", stretch, None)
        self._write = ggml("ggml_backend_tensor_set", stretch, None)
        self.callback = llama.ggml_backend_sched_eval_callback(self._ask_or_take())

    def attach(self, context: int) -> None:
        """Nothing to do: the callback is in the context's parameters."""

    def begin(self, incoming: Logits | None) -> None:
        self._count = self._used = 0
        self._incoming = incoming

    def of_pass(self, rows: int) -> Logits:
        if self._count != rows:
            raise TwdError(FailureCode.INTERNAL, f"of {rows} states {self._count} were caught; {_OTHER_BUILD}")
        return self._caught[:rows].copy()

    def _ask_or_take(self) -> Callable[[int, bool, object], bool]:
        """The callback. It is a closure, so that each call is as fast as possible in Python."""
        name_of, text_at = self._name, ctypes.string_at
        caught = (self._wanted + b"\0",) if self._wanted else ()
        restored = (self._restored + b"\0",) if self._restored else ()
        either = caught + restored
        length = max(map(len, either))

        def answer(tensor: int, asking: bool, _: object) -> bool:
            name = text_at(name_of(tensor), length)
            if asking:
                return name.startswith(either)
            return self._take(tensor) if name.startswith(caught) else self._restore(tensor)

        return answer

    def _take(self, tensor: int) -> bool:
        size = self._size(tensor)
        rows = size // self._row_bytes
        if self._count + rows <= len(self._caught):
            self._read(tensor, self._caught.ctypes.data + self._count * self._row_bytes, 0, size)
        self._count += rows
        return False

    def _restore(self, tensor: int) -> bool:
        if self._incoming is None:
            return True
        size = self._size(tensor)
        self._write(tensor, self._incoming.ctypes.data + self._used * self._row_bytes, 0, size)
        self._used += size // self._row_bytes
        return True


_OTHER_BUILD = "this build of llama.cpp computes this architecture in another way; use `pool.engine: rpc`"


class StageContext(Context):
    """A context that can take and give hidden states."""

    def __init__(self, model: LoadedGguf, settings: ContextSettings, states: SliceStates | None) -> None:
        self.states = states
        super().__init__(model, settings)
        if states is not None:
            states.attach(self.handle)

    def _parameters(self) -> ctypes.Structure:
        parameters = super()._parameters()
        if self.states is not None and self.states.callback is not None:
            parameters.cb_eval = self.states.callback
        return parameters


def _internal(name: str) -> Any:
    return getattr(llama._lib, name, None)


def _require(name: str) -> Any:
    function = _internal(name)
    if function is None:
        raise TwdError(FailureCode.UNSUPPORTED, f"this build of llama.cpp does not export {name}")
    return function
