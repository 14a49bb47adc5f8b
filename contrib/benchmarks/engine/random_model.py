"""A model with random weights in the shape of Llama, whose rows are as long as the blocks of all types of weights ask.

The demo model's rows of 576 are no multiple of 256, so that K quants fall back to other types there. What such a model
says makes no sense; how long a pass takes does not depend on that.
"""

from pathlib import Path

import gguf
import numpy as np

from twd.engine.quantize import quantize

WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY = 1024, 4096, 16, 4, 32000
CHOSEN = 4


def random_model(cache: Path, kind: str, layers: int = 16, experts: int = 0) -> Path:
    """One of about 270 million weights of `kind`, written once; with experts, each row chooses four of them."""
    name = f"random-{layers}-{experts}" if experts else f"random-{layers}"
    target = cache / f"{name}-{kind}.gguf"
    if target.exists():
        return target
    source = cache / f"{name}-f16.gguf"
    if not source.exists():
        _write(source, layers, experts)
    return source if kind == "f16" else quantize(source, target, kind)


def _write(path: Path, layers: int, experts: int) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER // CHOSEN if experts else INNER)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(CHOSEN)
    dice = np.random.default_rng(0)

    def matrix(name: str, *shape: int) -> None:
        values = dice.standard_normal(shape, np.float32) / np.sqrt(shape[-1])
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))

    matrix("token_embd", VOCABULARY, WIDTH)
    ones("output_norm")
    for layer in range(layers):
        ones(f"blk.{layer}.attn_norm")
        ones(f"blk.{layer}.ffn_norm")
        matrix(f"blk.{layer}.attn_q", WIDTH, WIDTH)
        matrix(f"blk.{layer}.attn_k", WIDTH // HEADS * KV_HEADS, WIDTH)
        matrix(f"blk.{layer}.attn_v", WIDTH // HEADS * KV_HEADS, WIDTH)
        matrix(f"blk.{layer}.attn_output", WIDTH, WIDTH)
        if experts:
            matrix(f"blk.{layer}.ffn_gate_inp", experts, WIDTH)
            for part in ("gate", "up"):
                matrix(f"blk.{layer}.ffn_{part}_exps", experts, INNER // CHOSEN, WIDTH)
            matrix(f"blk.{layer}.ffn_down_exps", experts, WIDTH, INNER // CHOSEN)
        else:
            matrix(f"blk.{layer}.ffn_gate", INNER, WIDTH)
            matrix(f"blk.{layer}.ffn_up", INNER, WIDTH)
            matrix(f"blk.{layer}.ffn_down", WIDTH, INNER)
    unfinished = path.with_suffix(".part")
    writer.write_header_to_file(unfinished)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(path)
