"""Values as GGUF writes them."""

import struct
from collections.abc import Sequence
from typing import Final

from twd.gguf_tools.constants import GGUFValueType
from twd.gguf_tools.header import FORMATS, Scalar

_VERSION: Final = 3


def encode_start(tensors: int, fields: int) -> bytes:
    """What a file begins with: so many of each follow."""
    return b"GGUF" + struct.pack("<IQQ", _VERSION, tensors, fields)


def encode_tensor(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    """What is told of a tensor before the weights; `offset` counts from where those begin."""
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return encode_string(name) + sizes + struct.pack("<IQ", kind, offset)


def encode_string(text: str) -> bytes:
    """A string as GGUF writes it."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encode_field(key: str, kind: GGUFValueType, value: Scalar | list[Scalar]) -> bytes:
    """A metadata field as GGUF writes it; a list becomes an array of `kind`."""
    if isinstance(value, list):
        start = struct.pack("<IIQ", GGUFValueType.ARRAY, kind, len(value))
        return encode_string(key) + start + b"".join(_encode(kind, one) for one in value)
    return encode_string(key) + struct.pack("<I", kind) + _encode(kind, value)


def _encode(kind: GGUFValueType, value: Scalar) -> bytes:
    return encode_string(str(value)) if kind is GGUFValueType.STRING else struct.pack(FORMATS[kind], value)
