"""Encodes values in the GGUF format."""

import struct
from collections.abc import Sequence
from typing import Final

from twd.gguf_tools.constants import GGUFValueType
from twd.gguf_tools.header import FORMATS, Scalar

_VERSION: Final = 3


def encode_start(tensors: int, fields: int) -> bytes:
    """The beginning of a file, with the numbers of tensors and metadata fields that follow."""
    return b"GGUF" + struct.pack("<IQQ", _VERSION, tensors, fields)


def encode_tensor(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    """The header entry of a tensor; `offset` is in bytes from the start of the weights."""
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return encode_string(name) + sizes + struct.pack("<IQ", kind, offset)


def encode_string(text: str) -> bytes:
    """A string in GGUF format: its length in bytes, then the bytes."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encode_field(key: str, kind: GGUFValueType, value: Scalar | list[Scalar]) -> bytes:
    """A metadata field in GGUF format; a list becomes an array of `kind`."""
    if isinstance(value, list):
        start = struct.pack("<IIQ", GGUFValueType.ARRAY, kind, len(value))
        return encode_string(key) + start + b"".join(_encode(kind, one) for one in value)
    return encode_string(key) + struct.pack("<I", kind) + _encode(kind, value)


def _encode(kind: GGUFValueType, value: Scalar) -> bytes:
    return encode_string(str(value)) if kind is GGUFValueType.STRING else struct.pack(FORMATS[kind], value)
