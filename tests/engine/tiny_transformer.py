"""Writes tiny random transformers: a few layers, with the weights that llama.cpp looks for in an architecture."""

from pathlib import Path
from typing import Final

import gguf
import numpy as np

LAYERS: Final = 8
VOCABULARY: Final = 96
WIDTH, HEADS, KV_HEADS, HEAD = 64, 2, 1, 32
INNER, EXPERTS, EXPERT_INNER = 96, 4, 32
WINDOW: Final = 8


class TinyTransformer:
    """Writes one model; `layer` and `tensor` add weights with the names that llama.cpp looks for."""

    def __init__(self, path: Path, architecture: str) -> None:
        self.gguf = gguf.GGUFWriter(path, architecture)
        self.architecture = architecture
        self._dice = np.random.default_rng(5)
        self.gguf.add_tokenizer_model("no_vocab")
        self.gguf.add_vocab_size(VOCABULARY)
        self.gguf.add_context_length(512)
        self.gguf.add_embedding_length(WIDTH)
        self.gguf.add_block_count(LAYERS)
        self.gguf.add_feed_forward_length(INNER)
        self.gguf.add_head_count(HEADS)
        self.gguf.add_layer_norm_rms_eps(1e-6)
        self.gguf.add_rope_freq_base(10_000.0)
        self.tensor("token_embd.weight", VOCABULARY, WIDTH)
        self.tensor("output_norm.weight", WIDTH)

    def number(self, name: str, value: float) -> None:
        add = self.gguf.add_uint32 if isinstance(value, int) else self.gguf.add_float32
        add(f"{self.architecture}.{name}", value)

    def heads(self, kv_heads: int = KV_HEADS) -> None:
        self.gguf.add_head_count_kv(kv_heads)
        self.gguf.add_key_length(HEAD)
        self.gguf.add_value_length(HEAD)
        self.gguf.add_rope_dimension_count(HEAD)

    def tensor(self, name: str, *shape: int) -> None:
        values = self._dice.standard_normal(shape)
        if "norm" in name:
            values = 1 + values / 10
        elif name.endswith("bias"):
            values /= 10
        elif len(shape) > 1 and name != "token_embd.weight":
            values /= np.sqrt(shape[-1])
        self.gguf.add_tensor(name, values.astype(np.float32))

    def layer(self, number: int, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            self.tensor(f"blk.{number}.{name.replace('__', '.')}", *shape)

    def attention(self, number: int, *, norm: bool = True) -> None:
        if norm:
            self.norm(number, "attn_norm")
        self.layer(
            number,
            attn_q__weight=(HEADS * HEAD, WIDTH),
            attn_k__weight=(KV_HEADS * HEAD, WIDTH),
            attn_v__weight=(KV_HEADS * HEAD, WIDTH),
            attn_output__weight=(WIDTH, HEADS * HEAD),
        )

    def qkv_bias(self, number: int) -> None:
        kv = (KV_HEADS * HEAD,)
        self.layer(number, attn_q__bias=(HEADS * HEAD,), attn_k__bias=kv, attn_v__bias=kv)

    def qk_norm(self, number: int) -> None:
        self.layer(number, attn_q_norm__weight=(HEAD,), attn_k_norm__weight=(HEAD,))

    def norm(self, number: int, *names: str, bias: bool = False) -> None:
        for name in names:
            self.layer(number, **{f"{name}__weight": (WIDTH,)}, **({f"{name}__bias": (WIDTH,)} if bias else {}))

    def gated(self, number: int, *, norm: bool = True) -> None:
        if norm:
            self.norm(number, "ffn_norm")
        self.layer(
            number,
            ffn_gate__weight=(INNER, WIDTH),
            ffn_up__weight=(INNER, WIDTH),
            ffn_down__weight=(WIDTH, INNER),
        )

    def expert_counts(self, inner: int | None) -> None:
        self.gguf.add_expert_count(EXPERTS)
        self.gguf.add_expert_used_count(2)
        if inner is not None:
            self.gguf.add_expert_feed_forward_length(inner)

    def experts(self, number: int, inner: int = EXPERT_INNER) -> None:
        self.layer(
            number,
            ffn_gate_inp__weight=(EXPERTS, WIDTH),
            ffn_gate_exps__weight=(EXPERTS, inner, WIDTH),
            ffn_up_exps__weight=(EXPERTS, inner, WIDTH),
            ffn_down_exps__weight=(EXPERTS, WIDTH, inner),
        )

    def shared_expert(self, number: int) -> None:
        self.layer(
            number,
            ffn_gate_shexp__weight=(EXPERT_INNER, WIDTH),
            ffn_up_shexp__weight=(EXPERT_INNER, WIDTH),
            ffn_down_shexp__weight=(WIDTH, EXPERT_INNER),
        )

    def output(self) -> None:
        self.tensor("output.weight", VOCABULARY, WIDTH)

    def save(self) -> None:
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()
