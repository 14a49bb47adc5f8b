"""Tensors that lie elsewhere than with their layer: which ones, where, and llama.cpp's list of them."""

import ctypes
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from twd.engine.library import EngineDevice, ggml
from twd.gguf_tools.inspect import GgufInfo, layer_of


@dataclass(frozen=True, slots=True)
class TensorOverride:
    """Tensors whose names match a pattern, and the device that holds them; None: this machine's memory."""

    pattern: bytes
    device: EngineDevice | None = None


@dataclass(frozen=True, slots=True)
class DevicePlacement:
    """Where a model's layers and single tensors go. `layers` counts the output head as one; they are the last ones."""

    layers: int
    devices: tuple[EngineDevice, ...] = ()
    split: tuple[float, ...] = ()
    places: tuple[TensorOverride, ...] = ()

    @property
    def told(self) -> str:
        """What makes this placement another one than others."""
        where = [f"{place.pattern.decode()}={place.device.name if place.device else 'host'}" for place in self.places]
        cards = [f"{card.name} {card.description}" for card in self.devices]
        return " ".join([*cards, str(self.layers), *(f"{share:g}" for share in self.split), *where])


class _Override(ctypes.Structure):
    """llama.cpp's llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def override_list(places: Sequence[TensorOverride]) -> ctypes.Array[_Override]:
    """llama.cpp's list of them, ended by nulls."""
    rows = [_Override(place.pattern, _buffer_type(place.device)) for place in places]
    return (_Override * (len(rows) + 1))(*rows, _Override(None, None))


def _buffer_type(device: EngineDevice | None) -> int | None:
    found: int | None = (
        ggml("ggml_backend_cpu_buffer_type", [], ctypes.c_void_p)()
        if device is None
        else ggml("ggml_backend_dev_buffer_type", [ctypes.c_void_p], ctypes.c_void_p)(device.handle)
    )
    return found


def bytes_on_host(info: GgufInfo, places: Iterable[TensorOverride], first: int) -> int:
    """The bytes of layers from `first` on that these places keep in this machine's memory."""
    patterns = [(re.compile(place.pattern.decode()), place.device is None) for place in places]
    return sum(
        tensor.size_bytes
        for tensor in info.tensors
        if (layer := layer_of(tensor.name)) is not None
        and layer >= first
        and next((here for pattern, here in patterns if pattern.search(tensor.name)), False)
    )
