"""Rows of one matrix of a GGUF file as numbers of 32 bits: only those that are asked for are read and decoded."""

import ctypes
from collections.abc import Sequence

import numpy as np

from twd.decoding.noise import Ids
from twd.engine.context import Logits
from twd.engine.library import ggml
from twd.gguf_tools.constants import GGMLQuantizationType
from twd.gguf_tools.header import GgufHeader, TensorInfo
from twd.wire.failures import FailureCode, TwdError


class _Traits(ctypes.Structure):
    """llama.cpp's description of a type of weights."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
        ("bytes", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


class TensorRows:
    """The rows of a matrix."""

    def __init__(self, header: GgufHeader, tensor: TensorInfo) -> None:
        self.width, count = tensor.shape
        self._kind = tensor.kind
        at = header.data_offset + tensor.offset
        size = tensor.size_bytes // count
        self._stored = np.memmap(header.path, np.uint8, "r", at, (count, size))
        self._traits = _traits(tensor.kind)

    def take(self, rows: Ids | Sequence[int]) -> Logits:
        """These rows, one after another."""
        stored = np.ascontiguousarray(self._stored[rows])
        if self._kind is GGMLQuantizationType.F32:
            return stored.view(np.float32)
        found = np.empty((len(stored), self.width), np.float32)
        self._traits.to_float(stored.ctypes.data, found.ctypes.data, found.size)
        return found


def _traits(kind: GGMLQuantizationType) -> _Traits:
    found: _Traits = ggml("ggml_get_type_traits", [ctypes.c_int], ctypes.POINTER(_Traits))(int(kind)).contents
    if kind is not GGMLQuantizationType.F32 and not found.to_float:
        raise TwdError(FailureCode.UNSUPPORTED, f"matrices of type {kind.name} cannot be read row by row")
    return found
