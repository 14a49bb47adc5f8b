"""Matrix products by ggml itself, as llama.cpp has them computed: to test the kernels that it uses."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from twd.engine.library import ggml, start
from twd.gguf_tools.constants import GGMLQuantizationType

Floats = NDArray[np.float32]
_F32 = int(GGMLQuantizationType.F32)
_POINTER = ctypes.c_void_p


class _Room(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("buffer", _POINTER), ("no_alloc", ctypes.c_bool))


def stored(kind: GGMLQuantizationType, weights: Floats) -> bytes:
    """The weights as a model file keeps them."""
    rows, columns = weights.shape
    size = ggml("ggml_row_size", [ctypes.c_int, ctypes.c_int64], ctypes.c_size_t)(int(kind), columns) * rows
    out = ctypes.create_string_buffer(size)
    numbers = [ctypes.c_int64] * 3
    quantize = ggml("ggml_quantize_chunk", [ctypes.c_int, _POINTER, _POINTER, *numbers, _POINTER], ctypes.c_size_t)
    source = np.ascontiguousarray(weights, np.float32)
    if kind is GGMLQuantizationType.F32:
        return source.tobytes()
    assert quantize(int(kind), source.ctypes.data, out, 0, rows, columns, None) == size
    return out.raw


def product(kind: GGMLQuantizationType, weights: bytes, rows: int, inputs: Floats, threads: int) -> Floats:
    """Each of the inputs times the matrix: one row of results for each."""
    start()
    count, columns = inputs.shape
    context = ggml("ggml_init", [_Room], _POINTER)(_Room(len(weights) + 8 * inputs.nbytes + (64 << 20), None, False))
    try:
        tensor = ggml("ggml_new_tensor_2d", [_POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64], _POINTER)
        data = ggml("ggml_get_data", [_POINTER], _POINTER)
        matrix, batch = tensor(context, int(kind), columns, rows), tensor(context, _F32, columns, count)
        ctypes.memmove(data(matrix), weights, len(weights))
        ctypes.memmove(data(batch), np.ascontiguousarray(inputs).ctypes.data, inputs.nbytes)
        result = ggml("ggml_mul_mat", [_POINTER] * 3, _POINTER)(context, matrix, batch)
        graph = ggml("ggml_new_graph", [_POINTER], _POINTER)(context)
        ggml("ggml_build_forward_expand", [_POINTER] * 2, None)(graph, result)
        compute = ggml("ggml_graph_compute_with_ctx", [_POINTER, _POINTER, ctypes.c_int], ctypes.c_int)
        assert compute(context, graph, threads) == 0
        out = np.empty((count, rows), np.float32)
        ctypes.memmove(out.ctypes.data, data(result), out.nbytes)
        return out
    finally:
        ggml("ggml_free", [_POINTER], None)(context)
