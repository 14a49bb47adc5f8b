#!/usr/bin/env python3
"""Write a mixture of random weights in Q8_0, with the vocabulary of a small real model: mixture.py SMALL.gguf OUT.gguf

Its text has no sense; what it costs to compute and to read is that of a real one of its size.
"""

import argparse
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

BLOCK, BYTES_OF_A_BLOCK = 32, 34
HEAD = 64
SPREADS = {"token_embd": 16.0, "attn_output": 0.2, "ffn_down_exps": 0.2}
"""What a layer sees stays mostly the token itself; otherwise all tokens would choose the same experts."""


def copy_vocabulary(small: Path, writer: gguf.GGUFWriter) -> int:
    """Its fields of the tokenizer; returns how many tokens there are."""
    count = 0
    for field in gguf.GGUFReader(small).fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
            count = max(count, len(field.contents()))
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])
    return count


def blocks(dice: np.random.Generator, rows: int, columns: int, spread: float) -> npt.NDArray[np.uint8]:
    """Rows of Q8_0 with a spread of about `spread` / sqrt(columns)."""
    raw = np.frombuffer(dice.bytes(rows * columns // BLOCK * BYTES_OF_A_BLOCK), np.uint8).copy().reshape(-1, 34)
    raw[:, :2] = np.full((len(raw), 1), spread / (74 * np.sqrt(columns)), np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def shapes(args: argparse.Namespace, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """All matrices, rows before columns."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, args.width)}
    for layer in range(args.layers):
        start = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            found[f"{start}{name}.weight"] = (args.width, args.width)
        found[f"{start}ffn_gate_exps.weight"] = (args.experts, args.inner, args.width)
        found[f"{start}ffn_up_exps.weight"] = (args.experts, args.inner, args.width)
        found[f"{start}ffn_down_exps.weight"] = (args.experts, args.width, args.inner)
    return found


def floats(args: argparse.Namespace, dice: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    """Norms and routers. With `--skew`, some routers call louder, so their experts are chosen more often."""
    found: dict[str, Any] = {"output_norm.weight": np.ones(args.width, np.float32)}
    for layer in range(args.layers):
        start = f"blk.{layer}."
        found[f"{start}attn_norm.weight"] = np.ones(args.width, np.float32)
        found[f"{start}ffn_norm.weight"] = np.ones(args.width, np.float32)
        busy = np.exp(args.skew * dice.standard_normal((args.experts, 1)))
        router = busy * dice.standard_normal((args.experts, args.width)) / np.sqrt(args.width)
        found[f"{start}ffn_gate_inp.weight"] = (router * args.router).astype(np.float32)
    return found


def write(args: argparse.Namespace) -> None:
    """Tensor by tensor, so that memory holds one at a time."""
    dice = np.random.default_rng(args.seed)
    writer = gguf.GGUFWriter(args.out, args.architecture)
    writer.add_name(args.out.stem)
    writer.add_context_length(4096)
    writer.add_embedding_length(args.width)
    writer.add_block_count(args.layers)
    writer.add_feed_forward_length(args.inner)
    writer.add_expert_feed_forward_length(args.inner)
    writer.add_head_count(args.width // HEAD)
    writer.add_head_count_kv(args.width // HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(args.experts)
    writer.add_expert_used_count(args.used)
    vocabulary = copy_vocabulary(args.small, writer)
    own = floats(args, dice)
    matrices = shapes(args, vocabulary)
    for name, values in own.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for name, shape in matrices.items():
        stored = (*shape[:-1], shape[-1] // BLOCK * BYTES_OF_A_BLOCK)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in own.values():
        writer.write_tensor_data(values)
    for name, shape in matrices.items():
        rows = int(np.prod(shape[:-1]))
        writer.write_tensor_data(blocks(dice, rows, shape[-1], SPREADS.get(name.split(".")[-2], 1.0)))
    writer.close()


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("small", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--architecture", default="llama")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--used", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--inner", type=int, default=1024)
    parser.add_argument("--router", type=float, default=4.0, help="how sure routers are")
    parser.add_argument("--skew", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    write(parser.parse_args())


if __name__ == "__main__":
    main()
