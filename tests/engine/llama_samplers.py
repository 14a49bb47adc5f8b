"""llama.cpp's own samplers over numpy logits: what ours are compared with."""

import ctypes
from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def rows_of(logits: NDArray[np.float32]) -> NDArray[np.void]:
    """The candidates array that llama.cpp's samplers work on."""
    rows = np.zeros(len(logits), dtype=ROW)
    rows["id"] = np.arange(len(logits))
    rows["logit"] = logits
    return rows


def applied(sampler: object, logits: NDArray[np.float32], accepted: Sequence[int] = ()) -> dict[int, float]:
    """What a sampler leaves of the candidates: logit by id; the sampler is freed."""
    for token in accepted:
        llama.llama_sampler_accept(sampler, token)
    rows = rows_of(logits)
    data = rows.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
    array = llama.llama_token_data_array(data=data, size=len(rows), selected=-1, sorted=False)
    llama.llama_sampler_apply(sampler, ctypes.byref(array))
    llama.llama_sampler_free(sampler)
    left = rows[: array.size]
    return dict(zip(left["id"].tolist(), left["logit"].tolist(), strict=True))


def masked(sampler: object, size: int) -> NDArray[np.intp]:
    """The tokens that a grammar sampler leaves possible; the sampler stays as it is."""
    rows = rows_of(np.zeros(size, dtype=np.float32))
    data = rows.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
    array = llama.llama_token_data_array(data=data, size=size, selected=-1, sorted=False)
    llama.llama_sampler_apply(sampler, ctypes.byref(array))
    return np.flatnonzero(rows["logit"] > -np.inf)
