"""What this build of llama.cpp computes with kernels of our own: those of contrib/llama."""

import ctypes
from collections.abc import Iterable
from functools import cache

from twd.engine.library import find_ggml
from twd.gguf_tools.constants import GGMLQuantizationType
from twd.gguf_tools.header import TensorInfo
from twd.gguf_tools.inspect import floats

_PLAIN = 2
_COLUMNS = 256  # a multiple of all blocks' lengths
_KINDS = GGMLQuantizationType.__members__


def one_row_like_many(tensors: Iterable[TensorInfo]) -> bool:
    """Whether a pass of one row agrees with wider ones bit for bit: of llama.cpp's own, those for floats do not.

    Experts are left out: ours take each of them, or llama.cpp row for row, however many there are.
    """
    return all(_has(tensor) for tensor in floats(tensors) if len(tensor.shape) == _PLAIN)


def need_no_repacking(blocks: str) -> bool:
    """Whether weights stay as they come: our kernels are quicker with those, and of some types of repacked weights
    llama.cpp computes one row in another order than many.

    `blocks` are the kinds of the whole model, so that its slices are computed as it is.
    """
    kinds = [kind.partition(":")[0] for kind in blocks.split()]
    return any(kind in _KINDS and _covers(_KINDS[kind], _COLUMNS, 64) for kind in kinds)


def repacked_unevenly(blocks: str) -> bool:
    """Whether llama.cpp computes one row of such weights, where it repacks them, in another order than many."""
    return any(kind.partition(":")[0].endswith("_K") for kind in blocks.split())


@cache
def has_attention(key_length: int, value_length: int) -> bool:
    """Whether attention over keys and values of these lengths computes a row by itself as among others."""
    ask = find_ggml("twd_attention", [ctypes.c_int64, ctypes.c_int64], ctypes.c_bool)
    return ask is not None and bool(ask(key_length, value_length))


def any_kernels() -> bool:
    """Whether this build has them at all: it must have been made with them, for a processor that they know."""
    return _covers(GGMLQuantizationType.F32, _COLUMNS, 64)


def _has(tensor: TensorInfo) -> bool:
    columns, rows = tensor.shape
    return _covers(tensor.kind, columns, rows)


@cache
def _covers(kind: GGMLQuantizationType, columns: int, rows: int) -> bool:
    ask = find_ggml("twd_few_rows", [ctypes.c_int, ctypes.c_int64, ctypes.c_int64], ctypes.c_bool)
    return ask is not None and bool(ask(int(kind), columns, rows))
