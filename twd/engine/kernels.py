"""Tells what this build of llama.cpp computes with our own kernels (contrib/llama)."""

import ctypes
from collections.abc import Iterable
from functools import cache

from twd.engine.library import find_ggml
from twd.gguf_tools.constants import GGMLQuantizationType
from twd.gguf_tools.header import TensorInfo
from twd.gguf_tools.inspect import floats

_PLAIN = 2
_COLUMNS = 256  # a multiple of the block length of every type
_KINDS = GGMLQuantizationType.__members__


def one_row_like_many(tensors: Iterable[TensorInfo]) -> bool:
    """Whether a pass of one token agrees bit for bit with larger passes. llama.cpp's own kernels for floats do not.

    Matrices of experts are not checked: our kernels compute them, or llama.cpp computes them row by row for any number.
    """
    return all(_has(tensor) for tensor in floats(tensors) if len(tensor.shape) == _PLAIN)


def need_no_repacking(blocks: str) -> bool:
    """Whether the weights should not be repacked. Our kernels are faster with weights as they are. And for some types
    of repacked weights, llama.cpp computes one token in another order than many.

    `blocks` are the weight types of the whole model, so that its slices are computed in the same way.
    """
    kinds = [kind.partition(":")[0] for kind in blocks.split()]
    return any(kind in _KINDS and _covers(_KINDS[kind], _COLUMNS, 64) for kind in kinds)


def repacked_unevenly(blocks: str) -> bool:
    """Whether llama.cpp, after repacking such weights, computes one token in another order than many."""
    return any(kind.partition(":")[0].endswith("_K") for kind in blocks.split())


@cache
def has_attention(key_length: int, value_length: int) -> bool:
    """Whether our attention kernel takes keys and values of these lengths. It computes a token alone as in a batch."""
    ask = find_ggml("twd_attention", [ctypes.c_int64, ctypes.c_int64], ctypes.c_bool)
    return ask is not None and bool(ask(key_length, value_length))


def any_kernels() -> bool:
    """Whether our kernels can be used at all: this build contains them, and they support this CPU."""
    return _covers(GGMLQuantizationType.F32, _COLUMNS, 64)


def _has(tensor: TensorInfo) -> bool:
    columns, rows = tensor.shape
    return _covers(tensor.kind, columns, rows)


@cache
def _covers(kind: GGMLQuantizationType, columns: int, rows: int) -> bool:
    ask = find_ggml("twd_few_rows", [ctypes.c_int, ctypes.c_int64, ctypes.c_int64], ctypes.c_bool)
    return ask is not None and bool(ask(int(kind), columns, rows))
