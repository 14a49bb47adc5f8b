"""Make a model of a usual size without weights: all zeros, so it says nothing, but its passes cost what theirs cost.

    python contrib/benchmarks/gpu/hollow.py SmolLM2-F16.gguf 8b-q4_0.gguf --kind Q4_0 --size 8b

The tokenizer comes from the given model. Zeros are holes in the file, so it takes no disk.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from twd.gguf_tools.constants import GGML_QUANT_SIZES, GGUFValueType
from twd.gguf_tools.constants import GGMLQuantizationType as Kind
from twd.gguf_tools.encode import encode_field, encode_start, encode_tensor
from twd.gguf_tools.header import GgufHeader, aligned, read_header

ALIGNMENT: Final = 32


@dataclass(frozen=True)
class Size:
    """The measures of a family of models."""

    width: int
    feed: int
    layers: int
    heads: int
    kv_heads: int


SIZES: Final = {
    "1b": Size(2048, 8192, 16, 32, 8),
    "8b": Size(4096, 14336, 32, 32, 8),
    "14b": Size(5120, 17408, 40, 40, 8),
    "32b": Size(5120, 27648, 64, 40, 8),
    "70b": Size(8192, 28672, 80, 64, 8),
}


def tensors(size: Size, kind: Kind, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    """Name, shape and type of every tensor."""
    head = size.width // size.heads
    yield "token_embd.weight", (size.width, vocabulary), kind
    for layer in range(size.layers):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", (size.width,), Kind.F32
        yield name + "ffn_norm.weight", (size.width,), Kind.F32
        for part, rows in (("q", size.heads), ("k", size.kv_heads), ("v", size.kv_heads)):
            yield f"{name}attn_{part}.weight", (size.width, rows * head), kind
        yield name + "attn_output.weight", (size.heads * head, size.width), kind
        yield name + "ffn_gate.weight", (size.width, size.feed), kind
        yield name + "ffn_up.weight", (size.width, size.feed), kind
        yield name + "ffn_down.weight", (size.feed, size.width), kind
    yield "output_norm.weight", (size.width,), Kind.F32


def numbers(size: Size) -> dict[str, int]:
    """The metadata that tells the measures."""
    return {
        "embedding_length": size.width,
        "feed_forward_length": size.feed,
        "block_count": size.layers,
        "attention.head_count": size.heads,
        "attention.head_count_kv": size.kv_heads,
        "rope.dimension_count": size.width // size.heads,
        "context_length": 8192,
    }


def fields(header: GgufHeader, size: Size) -> Iterator[bytes]:
    """The source's metadata, with these measures."""
    told = {f"{header.text('general.architecture')}.{key}": value for key, value in numbers(size).items()}
    with header.path.open("rb") as source:
        for key, (begin, end) in header.spans.items():
            if key not in told:
                source.seek(begin)
                yield source.read(end - begin)
    for key, value in told.items():
        yield encode_field(key, GGUFValueType.UINT32, value)


def make_hollow(path: Path, target: Path, kind: Kind, size: Size) -> None:
    """Write the hollow model."""
    header = read_header(path)
    vocabulary = next(tensor.shape[1] for tensor in header.tensors if tensor.name == "token_embd.weight")
    parts, listed, at = list(fields(header, size)), b"", 0
    rows = list(tensors(size, kind, vocabulary))
    for name, shape, own in rows:
        block, bytes_each = GGML_QUANT_SIZES[own]
        listed += encode_tensor(name, shape, own, at)
        at += aligned(prod(shape) // block * bytes_each, ALIGNMENT)
    with target.open("wb") as file:
        file.write(encode_start(len(rows), len(parts)) + b"".join(parts) + listed)
        file.truncate(aligned(file.tell(), ALIGNMENT) + at)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--kind", default="Q4_0")
    parser.add_argument("--size", choices=SIZES, default="8b")
    args = parser.parse_args()
    make_hollow(args.source, args.target, Kind[args.kind.upper()], SIZES[args.size])
    print(f"{args.target}: {args.target.stat().st_size / 1e9:.1f} GB")
