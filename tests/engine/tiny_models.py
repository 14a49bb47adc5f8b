"""Models of a few kilobytes with random weights: real for llama.cpp, ready in a moment, and without sense."""

from pathlib import Path

import gguf
import numpy as np

VOCABULARY = 64
_EMBEDDING = 128
_HEADS, _KV_HEADS = 4, 2
_INNER = 2 * _EMBEDDING


class TinyWriter:
    """Keys and tensors that every architecture has."""

    def __init__(
        self, path: Path, architecture: str, layers: int, width: int = _EMBEDDING, norm: str = "output_norm.weight"
    ) -> None:
        self.gguf = gguf.GGUFWriter(path, architecture)
        self._dice = np.random.default_rng(0)
        self.gguf.add_tokenizer_model("no_vocab")
        self.gguf.add_vocab_size(VOCABULARY)
        self.gguf.add_context_length(4096)
        self.gguf.add_embedding_length(width)
        self.gguf.add_block_count(layers)
        self.gguf.add_layer_norm_rms_eps(1e-5)
        self.random("token_embd.weight", VOCABULARY, width, scale=1.0)
        self.ones(norm, width)

    def random(self, name: str, *shape: int, scale: float = 0.0, copies: int = 1) -> None:
        spread = scale or 1.0 / np.sqrt(shape[-1])
        numbers = self._dice.standard_normal((shape[0] // copies, *shape[1:])) * spread
        self.gguf.add_tensor(name, np.concatenate([numbers] * copies).astype(np.float32))

    def ones(self, name: str, *shape: int, value: float = 1.0) -> None:
        self.gguf.add_tensor(name, np.full(shape, value, np.float32))

    def save(self) -> None:
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def write_llama(path: Path, layers: int = 2, width: int = _EMBEDDING, lively: float = 0.0, copies: int = 1) -> Path:
    """Attention as in Llama, float weights. `lively`: logits spread so far, instead of one that is far above all;
    `copies`: so many tokens have the same logit."""
    inner = 2 * width
    writer = TinyWriter(path, "llama", layers, width)
    if lively:
        writer.random("output.weight", VOCABULARY, width, scale=lively / np.sqrt(width), copies=copies)
    writer.gguf.add_feed_forward_length(inner)
    writer.gguf.add_head_count(_HEADS)
    writer.gguf.add_head_count_kv(_KV_HEADS)
    kv = width // _HEADS * _KV_HEADS
    for layer in range(layers):
        writer.ones(f"blk.{layer}.attn_norm.weight", width)
        writer.ones(f"blk.{layer}.ffn_norm.weight", width)
        writer.random(f"blk.{layer}.attn_q.weight", width, width)
        writer.random(f"blk.{layer}.attn_k.weight", kv, width)
        writer.random(f"blk.{layer}.attn_v.weight", kv, width)
        writer.random(f"blk.{layer}.attn_output.weight", width, width)
        writer.random(f"blk.{layer}.ffn_gate.weight", inner, width)
        writer.random(f"blk.{layer}.ffn_up.weight", inner, width)
        writer.random(f"blk.{layer}.ffn_down.weight", width, inner)
    writer.save()
    return path


def write_mamba(path: Path, layers: int = 2) -> Path:
    """A recurrent model: it keeps a running state, and cannot take a token back."""
    state, rank, kernel = 16, 8, 4
    writer = TinyWriter(path, "mamba", layers)
    writer.gguf.add_ssm_conv_kernel(kernel)
    writer.gguf.add_ssm_inner_size(_INNER)
    writer.gguf.add_ssm_state_size(state)
    writer.gguf.add_ssm_time_step_rank(rank)
    for layer in range(layers):
        writer.ones(f"blk.{layer}.attn_norm.weight", _EMBEDDING)
        writer.random(f"blk.{layer}.ssm_in.weight", 2 * _INNER, _EMBEDDING)
        writer.random(f"blk.{layer}.ssm_conv1d.weight", _INNER, kernel)
        writer.random(f"blk.{layer}.ssm_conv1d.bias", _INNER, scale=0.1)
        writer.random(f"blk.{layer}.ssm_x.weight", rank + 2 * state, _INNER)
        writer.random(f"blk.{layer}.ssm_dt.weight", _INNER, rank)
        writer.random(f"blk.{layer}.ssm_dt.bias", _INNER, scale=0.1)
        writer.ones(f"blk.{layer}.ssm_a", _INNER, state, value=-1.0)
        writer.ones(f"blk.{layer}.ssm_d", _INNER)
        writer.random(f"blk.{layer}.ssm_out.weight", _EMBEDDING, _INNER)
    writer.save()
    return path
