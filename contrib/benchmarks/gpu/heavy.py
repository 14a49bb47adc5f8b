"""Make a model as heavy as one likes that answers as the given one does, to stand for a big target on quick devices.

    python contrib/benchmarks/gpu/heavy.py SmolLM2-F16.gguf heavy.gguf --wider 80

Its feed-forward layers get so many times as many rows, all zero: they are read and multiplied like any others, and add
nothing. Zeros are holes in the file, so it is written at once and takes no more disk than the model that it came from.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from twd.gguf_tools.constants import GGUFValueType
from twd.gguf_tools.encode import encode_field, encode_start, encode_tensor
from twd.gguf_tools.header import GgufHeader, TensorInfo, aligned, read_header

WIDTH: Final = ".feed_forward_length"
WIDENED_ROWS: Final = (".ffn_gate.weight", ".ffn_up.weight")
LENGTHENED_ROWS: Final = ".ffn_down.weight"


def widened(tensor: TensorInfo, times: int) -> TensorInfo:
    """What this tensor becomes."""
    shape = tensor.shape
    if tensor.name.endswith(WIDENED_ROWS):
        shape = (shape[0], shape[1] * times)
    elif tensor.name.endswith(LENGTHENED_ROWS):
        shape = (shape[0] * times, shape[1])
    return replace(tensor, shape=shape, size_bytes=tensor.size_bytes * (times if shape != tensor.shape else 1))


def write_head(source: BinaryIO, file: BinaryIO, header: GgufHeader, tensors: Sequence[TensorInfo], times: int) -> None:
    """Everything before the weights."""
    file.write(encode_start(len(tensors), len(header.spans)))
    for key, (begin, end) in header.spans.items():
        source.seek(begin)
        told = source.read(end - begin)
        if key.endswith(WIDTH):
            told = encode_field(key, GGUFValueType.UINT32, header.number(key) * times)
        file.write(told)
    for tensor in tensors:
        file.write(encode_tensor(tensor.name, tensor.shape, tensor.kind, tensor.offset))


def write_weights(source: BinaryIO, file: BinaryIO, start: int, old: TensorInfo, new: TensorInfo, times: int) -> None:
    """One tensor; where its rows became longer, each goes to the beginning of its new place."""
    rows = old.shape[1] if old.name.endswith(LENGTHENED_ROWS) else 1
    size = old.size_bytes // rows
    for row in range(rows):
        file.seek(start + new.offset + row * size * (times if rows > 1 else 1))
        file.write(source.read(size))


def make_heavy(path: Path, target: Path, times: int) -> None:
    """Write the heavy model."""
    header = read_header(path)
    alignment = header.number("general.alignment", 32)
    tensors, at = [], 0
    for tensor in header.tensors:
        tensors.append(replace(widened(tensor, times), offset=at))
        at += aligned(tensors[-1].size_bytes, alignment)
    with path.open("rb") as source, target.open("wb") as file:
        write_head(source, file, header, tensors, times)
        start = aligned(file.tell(), alignment)
        for old, new in zip(header.tensors, tensors, strict=True):
            source.seek(header.data_offset + old.offset)
            write_weights(source, file, start, old, new, times)
        file.truncate(start + at)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--wider", type=int, default=80)
    args = parser.parse_args()
    make_heavy(args.source, args.target, args.wider)
    print(f"{args.target}: {args.target.stat().st_size / 1e9:.1f} GB")
