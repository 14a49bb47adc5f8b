"""A dense model made a mixture: its feed-forward networks, each so many times over, behind random routers.

As all experts of a layer are alike, the mixture says what the dense model says, whatever its routers choose.
"""

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.gguf_tools.constants import GGMLQuantizationType, GGUFValueType
from twd.gguf_tools.encode import encode_field, encode_start, encode_tensor
from twd.gguf_tools.header import BrokenGguf, GgufHeader, TensorInfo, aligned, read_header
from twd.gguf_tools.inspect import layer_of
from twd.moe.new_file import FileCopier, disk_errors, new_file, write_all

_PARTS: Final = ("ffn_gate", "ffn_up", "ffn_down")
_SEED: Final = 3
_SPREAD: Final = 0.05
_ARCHITECTURES: Final = ("llama",)


@dataclass(frozen=True, slots=True)
class _Written:
    """A tensor of the mixture: `times` copies of bytes of the dense file, or bytes of its own."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int = 0
    size: int = 0
    times: int = 1
    own: bytes = b""

    @property
    def bytes(self) -> int:
        """Its size."""
        return len(self.own) or self.size * self.times


def upcycle(dense: Path, target: Path, *, experts: int = 8, used: int = 2) -> Path:
    """Write the mixture; raises TwdError for models of an architecture whose mixtures have other names."""
    header = read_header(dense)
    architecture = header.text("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise BrokenGguf(dense, f"is of architecture {architecture}; only {', '.join(_ARCHITECTURES)} can be upcycled")
    tensors = list(_tensors(header, experts))
    alignment = max(header.number("general.alignment", 32), 1)
    with disk_errors(target), new_file(target) as handle:
        own = [
            encode_field(f"{architecture}.expert_count", GGUFValueType.UINT32, experts),
            encode_field(f"{architecture}.expert_used_count", GGUFValueType.UINT32, used),
        ]
        write_all(handle, encode_start(len(tensors), len(header.spans) + len(own)))
        with FileCopier(handle) as copier:
            for start, end in header.spans.values():
                _copy(copier, dense, start, end - start)
            write_all(handle, b"".join(own) + _table(tensors, alignment))
            _write(handle, copier, dense, tensors, alignment)
    return target


def _tensors(header: GgufHeader, experts: int) -> Iterator[_Written]:
    dice = random.Random(_SEED)
    for info in header.tensors:
        base = info.name.removesuffix(".weight")
        start = header.data_offset + info.offset
        if layer_of(info.name) is None or not base.endswith(_PARTS):
            yield _Written(info.name, info.shape, info.kind, start, info.size_bytes)
            continue
        if base.endswith(_PARTS[0]):
            yield _router(f"{base}_inp.weight", info, experts, dice)
        yield _Written(f"{base}_exps.weight", (*info.shape, experts), info.kind, start, info.size_bytes, experts)


def _router(name: str, gate: TensorInfo, experts: int, dice: random.Random) -> _Written:
    width = gate.shape[0]
    values = struct.pack(f"<{experts * width}f", *(dice.gauss(0, _SPREAD) for _ in range(experts * width)))
    return _Written(name, (width, experts), GGMLQuantizationType.F32, own=values)


def _table(tensors: list[_Written], alignment: int) -> bytes:
    offset, table = 0, bytearray()
    for tensor in tensors:
        table += encode_tensor(tensor.name, tensor.shape, tensor.kind, offset)
        offset += aligned(tensor.bytes, alignment)
    return bytes(table)


def _write(handle: int, copier: FileCopier, dense: Path, tensors: list[_Written], alignment: int) -> None:
    at = aligned(os.lseek(handle, 0, os.SEEK_CUR), alignment)
    for tensor in tensors:
        os.lseek(handle, at, os.SEEK_SET)
        write_all(handle, tensor.own)
        for _ in range(tensor.times):
            _copy(copier, dense, tensor.offset, tensor.size)
        at += aligned(tensor.bytes, alignment)
    os.ftruncate(handle, at)


def _copy(copier: FileCopier, path: Path, offset: int, size: int) -> None:
    for _ in copier.copy(path, offset, size):
        pass
