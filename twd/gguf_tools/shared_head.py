"""A trained head that reads the KV cells of the target's last layers (Gemma 4's assistant), and has none of its own."""

from typing import Final

from twd.gguf_tools.header import ArrayField, GgufHeader, read_header
from twd.gguf_tools.inspect import GgufInfo
from twd.gguf_tools.slice_kinds import HEAD_LAYERS

SHARED: Final = "gemma4-assistant"
_TARGET: Final = "gemma4"
_WINDOWS: Final = "attention.sliding_window_pattern"
_PLACES: Final = {True: 2, False: 1}
"""How far from the model's end the layer is whose cells are read: by layers with a sliding window, and without one."""


def shared_width(header: GgufHeader) -> int:
    """The width of the model that such a head is for."""
    return header.number(f"{SHARED}.embedding_length_out")


def shared_problem(header: GgufHeader, target: GgufInfo) -> str:
    """Why such a head does not guess for a model; empty if it does. llama.cpp would end the process, or read cells as
    what they are not."""
    name, width = header.path.name, shared_width(header)
    foreign = f"{name} is a head of another model"
    if target.architecture != _TARGET:
        return f"{name} guesses for {_TARGET} models, and this one is of architecture {target.architecture}"
    if width != target.embedding:
        return f"{foreign}: that has a width of {width}, this one of {target.embedding}"
    layers = header.number(f"{SHARED}.block_count")
    windows = _each(header, SHARED, _WINDOWS, layers)
    if header.number(f"{SHARED}.{HEAD_LAYERS}") != layers or not layers or len(windows) != layers:
        return f"{name} does not tell of each of its layers what it reads"
    return _cells_problem(header, windows, read_header(target.path), target.layers)


def _cells_problem(header: GgufHeader, windows: list[int], target: GgufHeader, count: int) -> str:
    """Compare the cells that the layers of a head read with those that the model has."""
    foreign, theirs = f"{header.path.name} is a head of another model", _each(target, _TARGET, _WINDOWS, count)
    own_heads = _each(header, SHARED, "attention.head_count_kv", len(windows))
    heads = _each(target, _TARGET, "attention.head_count_kv", count)
    for layer, window in enumerate(windows):
        place = count - _PLACES[bool(window)]
        if place < 0 or len(theirs) != count or bool(theirs[place]) != bool(window):
            return f"{foreign}: its layer {layer} reads the cells of layer {place}, which are of another kind"
        key = "attention.key_length_swa" if window else "attention.key_length"
        mine = (own_heads[layer], header.number(f"{SHARED}.{key}"))
        if mine != (heads[place], target.number(f"{_TARGET}.{key}")):
            return f"{foreign}: its layer {layer} reads cells of another size than layer {place} has"
    return ""


def _each(header: GgufHeader, architecture: str, name: str, layers: int) -> list[int]:
    """The value of a field for each layer."""
    key = f"{architecture}.{name}"
    if isinstance(header.metadata.get(key), ArrayField):
        return [int(one) for one in header.array(key)][:layers]
    return [header.number(key)] * layers
