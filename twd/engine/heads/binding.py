"""llama.cpp's functions for trained heads. They are no part of its public interface, but the library exports them."""

import ctypes
from typing import Any

from twd.engine.library import llama

_SET_ROWS = "_Z26llama_set_embeddings_nextnP13llama_contextbb"
_GET_ROWS = "_Z26llama_get_embeddings_nextnP13llama_context"
_SET_INPUTS = "_Z30llama_set_embeddings_layer_inpP13llama_contextjb"
_GET_INPUTS = "_Z30llama_get_embeddings_layer_inpP13llama_contextj"
_SET_LAYER = "_Z28llama_set_nextn_layer_offsetP13llama_contexti"
_GET_ROW = "_Z30llama_get_embeddings_nextn_ithP13llama_contexti"


def heads_available() -> bool:
    """Whether this build of llama.cpp exports the functions."""
    names = (_SET_ROWS, _GET_ROWS, _GET_ROW, _SET_INPUTS, _GET_INPUTS, _SET_LAYER)
    return all(_function(name) is not None for name in names)


def give_hidden_rows(context: int, *, outputs_only: bool) -> None:
    """Make a context give out the hidden states that a head reads: of all tokens of a pass, or only of its outputs."""
    function = _function(_SET_ROWS)
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool], None
    function(context, True, outputs_only)


def hidden_rows(context: int) -> int:
    """The address of the hidden states of all tokens of the last pass; 0 if there are none."""
    function = _function(_GET_ROWS)
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    return function(context) or 0


def hidden_row(context: int, row: int) -> int:
    """The address of the hidden state of one token of the last pass; 0 if there is none."""
    function = _function(_GET_ROW)
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int32], ctypes.c_void_p
    return function(context, row) or 0


def use_head_layer(context: int, number: int) -> None:
    """Compute the head with this number in the next passes of a head's context; the first one is 0."""
    function = _function(_SET_LAYER)
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int32], None
    function(context, number)


def give_layer_inputs(context: int, layer: int) -> None:
    """Make a context give out the states that go into a layer, of all tokens of a pass."""
    function = _function(_SET_INPUTS)
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool], None
    function(context, layer, True)


def layer_inputs(context: int, layer: int) -> int:
    """The address of the states that went into a layer in the last pass; 0 if there are none."""
    function = _function(_GET_INPUTS)
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_uint32], ctypes.c_void_p
    return function(context, layer) or 0


def _function(name: str) -> Any:
    return getattr(llama._lib, name, None)
