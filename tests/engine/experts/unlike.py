"""A small mixture that llama.cpp loads, all of whose experts differ: a wrong byte shows in the logits."""

from pathlib import Path
from typing import Final

import gguf
import numpy as np

WIDTH: Final = 256
INNER: Final = 256
VOCABULARY: Final = 64
_HEADS: Final = 4
_BLOCK: Final = 32
_BYTES_OF_A_BLOCK: Final = 34


def write_unlike(path: Path, *, layers: int = 4, experts: int = 8, used: int = 2, shards: int = 1) -> Path:
    """Experts in Q8_0, 69,632 bytes each: their borders are not those of pages."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=0 if shards == 1 else -(-12 * layers // shards))
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(1024)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(used)
    dice = np.random.default_rng(5)
    _floats(writer, dice, "token_embd.weight", VOCABULARY, WIDTH)
    for layer in range(layers):
        start = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{start}{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            _floats(writer, dice, f"{start}{name}.weight", WIDTH, WIDTH, scale=0.06)
        _floats(writer, dice, f"{start}ffn_gate_inp.weight", experts, WIDTH, scale=0.3)
        for name in ("ffn_gate", "ffn_up", "ffn_down"):
            blocks = _blocks(dice, experts * INNER, WIDTH)
            raw = blocks.reshape(experts, INNER, -1)
            writer.add_tensor(f"{start}{name}_exps.weight", raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if shards == 1 else next(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def _floats(writer: gguf.GGUFWriter, dice: np.random.Generator, name: str, *shape: int, scale: float = 1.0) -> None:
    writer.add_tensor(name, (dice.standard_normal(shape) * scale).astype(np.float32))


def _blocks(dice: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Random blocks of 32 bytes with one scale each."""
    count = rows * columns // _BLOCK
    raw = dice.integers(0, 256, (count, _BYTES_OF_A_BLOCK), np.uint8)
    raw[:, :2] = np.full((count, 1), 0.001, np.float16).view(np.uint8)
    return raw.reshape(rows, -1)
