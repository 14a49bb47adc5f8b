"""Matrix products and attention by ggml itself, as llama.cpp has them computed: to test the kernels that it uses."""

import ctypes
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twd.engine.library import ggml, start
from twd.gguf_tools.constants import GGMLQuantizationType

Floats = NDArray[np.float32]
Chosen = NDArray[np.int32]
_F32, _F16, _I32 = (int(GGMLQuantizationType[name]) for name in ("F32", "F16", "I32"))
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


def product(
    kind: GGMLQuantizationType, weights: bytes, rows: int, inputs: Floats, threads: int, apart: int = 1
) -> Floats:
    """Each of the inputs times the matrix: one row of results for each. In memory, inputs are so many rows apart."""
    count, columns = inputs.shape
    with _Graph(len(weights) + 8 * apart * inputs.nbytes) as graph:
        matrix = graph.tensor(int(kind), (columns, rows), weights)
        batch = graph.tensor(_F32, (columns, apart * count), np.repeat(inputs, apart, axis=0).tobytes())
        if apart > 1:
            view = ggml("ggml_view_2d", [_POINTER, _POINTER, *[ctypes.c_int64] * 2, *[ctypes.c_size_t] * 2], _POINTER)
            batch = view(graph.context, batch, columns, count, apart * 4 * columns, 0)
        return graph.compute(
            ggml("ggml_mul_mat", [_POINTER] * 3, _POINTER)(graph.context, matrix, batch), threads, rows
        )


def expert_product(kind: GGMLQuantizationType, weights: Floats, inputs: Floats, chosen: Chosen, threads: int) -> Floats:
    """Each row of inputs times the matrices of the experts chosen for it: by row and choice.

    `inputs` have one vector a row, which all its experts take, or one for each choice.
    """
    experts, rows, columns = weights.shape
    count, each, _ = inputs.shape
    with _Graph(weights.nbytes + 16 * chosen.shape[1] * inputs.nbytes) as graph:
        matrices = graph.tensor(int(kind), (columns, rows, experts), stored(kind, weights.reshape(-1, columns)))
        batch = graph.tensor(_F32, (columns, each, count), np.ascontiguousarray(inputs, np.float32).tobytes())
        ids = graph.tensor(_I32, (chosen.shape[1], count), np.ascontiguousarray(chosen, np.int32).tobytes())
        ask = ggml("ggml_mul_mat_id", [_POINTER] * 4, _POINTER)
        result = graph.compute(ask(graph.context, matrices, batch, ids), threads, rows)
        return result.reshape(count, chosen.shape[1], rows)


@dataclass(frozen=True)
class Query:
    """What attention asks: queries by head and row, keys and values by head and place, a mask by row and place."""

    q: Floats
    k: Floats
    v: Floats
    mask: Floats
    scale: float = 0.125
    bias: float = 0.0
    cap: float = 0.0
    sinks: Floats | None = None

    def rows(self, start: int, end: int) -> "Query":
        """The same for some of its rows."""
        return replace(self, q=self.q[:, start:end], mask=self.mask[start:end])


def attention(query: Query, kind_k: GGMLQuantizationType, kind_v: GGMLQuantizationType, threads: int) -> Floats:
    """The results by row and head."""
    heads, rows, length = query.q.shape
    kv_heads, places, width = query.v.shape
    with _Graph(16 * (query.q.nbytes + query.k.nbytes + query.v.nbytes + query.mask.nbytes)) as graph:
        keys = stored(kind_k, query.k.reshape(-1, length))
        values = stored(kind_v, query.v.reshape(-1, width))
        q = graph.tensor(_F32, (length, rows, heads), np.ascontiguousarray(query.q, np.float32).tobytes())
        k = graph.tensor(int(kind_k), (length, places, kv_heads), keys)
        v = graph.tensor(int(kind_v), (width, places, kv_heads), values)
        mask = graph.tensor(_F16, (places, rows), query.mask.astype(np.float16).tobytes())
        ask = ggml("ggml_flash_attn_ext", [_POINTER] * 5 + [ctypes.c_float] * 3, _POINTER)
        result = ask(graph.context, q, k, v, mask, query.scale, query.bias, query.cap)
        if query.sinks is not None:
            sinks = graph.tensor(_F32, (heads,), np.ascontiguousarray(query.sinks, np.float32).tobytes())
            ggml("ggml_flash_attn_ext_add_sinks", [_POINTER] * 2, None)(result, sinks)
        return graph.compute(result, threads, width).reshape(rows, heads, width)


class _Graph:
    """Room for some tensors and what is computed of them."""

    def __init__(self, size: int) -> None:
        start()
        self.context = ggml("ggml_init", [_Room], _POINTER)(_Room(size + (64 << 20), None, False))

    def __enter__(self) -> "_Graph":
        return self

    def __exit__(self, *_: object) -> None:
        ggml("ggml_free", [_POINTER], None)(self.context)

    def tensor(self, kind: int, shape: tuple[int, ...], data: bytes) -> int:
        sizes = (ctypes.c_int64 * len(shape))(*shape)
        new = ggml("ggml_new_tensor", [_POINTER, ctypes.c_int, ctypes.c_int, _POINTER], _POINTER)
        made = int(new(self.context, kind, len(shape), ctypes.cast(sizes, _POINTER)))
        ctypes.memmove(self._data(made), data, len(data))
        return made

    def compute(self, result: int, threads: int, width: int) -> Floats:
        graph = ggml("ggml_new_graph", [_POINTER], _POINTER)(self.context)
        ggml("ggml_build_forward_expand", [_POINTER] * 2, None)(graph, result)
        run = ggml("ggml_graph_compute_with_ctx", [_POINTER, _POINTER, ctypes.c_int], ctypes.c_int)
        assert run(self.context, graph, threads) == 0
        count = ggml("ggml_nelements", [_POINTER], ctypes.c_int64)(result)
        out = np.empty((count // width, width), np.float32)
        ctypes.memmove(out.ctypes.data, self._data(result), out.nbytes)
        return out

    def _data(self, tensor: int) -> int:
        return int(ggml("ggml_get_data", [_POINTER], _POINTER)(tensor))
