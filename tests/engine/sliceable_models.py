"""A tiny random model of every architecture that can be sliced: a few layers, with all that is peculiar to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import gguf
import numpy as np

LAYERS: Final = 8
VOCABULARY: Final = 96
_WIDTH, _HEADS, _KV_HEADS, _HEAD = 64, 2, 1, 32
_INNER, _EXPERTS, _EXPERT_INNER = 96, 4, 32
_WINDOW = 8
_Q_RANK, _KV_RANK, _ROTATED = 48, 64, 32


class _Model:
    """Writes one model; `layer` and `tensor` add weights with the names that llama.cpp looks for."""

    def __init__(self, path: Path, architecture: str) -> None:
        self.gguf = gguf.GGUFWriter(path, architecture)
        self.architecture = architecture
        self._dice = np.random.default_rng(5)
        self.gguf.add_tokenizer_model("no_vocab")
        self.gguf.add_vocab_size(VOCABULARY)
        self.gguf.add_context_length(512)
        self.gguf.add_embedding_length(_WIDTH)
        self.gguf.add_block_count(LAYERS)
        self.gguf.add_feed_forward_length(_INNER)
        self.gguf.add_head_count(_HEADS)
        self.gguf.add_layer_norm_rms_eps(1e-6)
        self.gguf.add_rope_freq_base(10_000.0)
        self.tensor("token_embd.weight", VOCABULARY, _WIDTH)
        self.tensor("output_norm.weight", _WIDTH)

    def number(self, name: str, value: float) -> None:
        add = self.gguf.add_uint32 if isinstance(value, int) else self.gguf.add_float32
        add(f"{self.architecture}.{name}", value)

    def heads(self, kv_heads: int = _KV_HEADS) -> None:
        self.gguf.add_head_count_kv(kv_heads)
        self.gguf.add_key_length(_HEAD)
        self.gguf.add_value_length(_HEAD)
        self.gguf.add_rope_dimension_count(_HEAD)

    def tensor(self, name: str, *shape: int) -> None:
        values = self._dice.standard_normal(shape).astype(np.float32)
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

    def attention(self, number: int) -> None:
        self.layer(
            number,
            attn_norm__weight=(_WIDTH,),
            attn_q__weight=(_HEADS * _HEAD, _WIDTH),
            attn_k__weight=(_KV_HEADS * _HEAD, _WIDTH),
            attn_v__weight=(_KV_HEADS * _HEAD, _WIDTH),
            attn_output__weight=(_WIDTH, _HEADS * _HEAD),
        )

    def qkv_bias(self, number: int) -> None:
        kv = (_KV_HEADS * _HEAD,)
        self.layer(number, attn_q__bias=(_HEADS * _HEAD,), attn_k__bias=kv, attn_v__bias=kv)

    def qk_norm(self, number: int) -> None:
        self.layer(number, attn_q_norm__weight=(_HEAD,), attn_k_norm__weight=(_HEAD,))

    def gated(self, number: int) -> None:
        self.layer(
            number,
            ffn_norm__weight=(_WIDTH,),
            ffn_gate__weight=(_INNER, _WIDTH),
            ffn_up__weight=(_INNER, _WIDTH),
            ffn_down__weight=(_WIDTH, _INNER),
        )

    def expert_counts(self) -> None:
        self.gguf.add_expert_count(_EXPERTS)
        self.gguf.add_expert_used_count(2)
        self.gguf.add_expert_feed_forward_length(_EXPERT_INNER)

    def experts(self, number: int) -> None:
        self.layer(
            number,
            ffn_gate_inp__weight=(_EXPERTS, _WIDTH),
            ffn_gate_exps__weight=(_EXPERTS, _EXPERT_INNER, _WIDTH),
            ffn_up_exps__weight=(_EXPERTS, _EXPERT_INNER, _WIDTH),
            ffn_down_exps__weight=(_EXPERTS, _WIDTH, _EXPERT_INNER),
        )

    def save(self) -> None:
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def _llama(model: _Model) -> None:
    model.heads()
    model.tensor("output.weight", VOCABULARY, _WIDTH)
    model.tensor("rope_freqs.weight", _HEAD // 2)
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _qwen2(model: _Model) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number)
        model.qkv_bias(number)
        model.gated(number)


def _qwen3(model: _Model) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number)
        model.qk_norm(number)
        model.gated(number)


def _qwen3moe(model: _Model) -> None:
    model.heads()
    model.expert_counts()
    for number in range(LAYERS):
        model.attention(number)
        model.qk_norm(number)
        model.layer(number, ffn_norm__weight=(_WIDTH,))
        model.experts(number)


def _phi3(model: _Model) -> None:
    model.heads(_HEADS)
    model.tensor("output.weight", VOCABULARY, _WIDTH)
    for number in range(LAYERS):
        model.layer(
            number,
            attn_norm__weight=(_WIDTH,),
            attn_qkv__weight=(3 * _HEADS * _HEAD, _WIDTH),
            attn_output__weight=(_WIDTH, _WIDTH),
            ffn_norm__weight=(_WIDTH,),
            ffn_up__weight=(2 * _INNER, _WIDTH),
            ffn_down__weight=(_WIDTH, _INNER),
        )


def _gpt_oss(model: _Model) -> None:
    model.heads()
    model.expert_counts()
    model.gguf.add_sliding_window(_WINDOW)
    model.tensor("output.weight", VOCABULARY, _WIDTH)
    for number in range(LAYERS):
        model.attention(number)
        model.qkv_bias(number)
        model.experts(number)
        model.layer(
            number,
            post_attention_norm__weight=(_WIDTH,),
            attn_sinks__weight=(_HEADS,),
            attn_output__bias=(_WIDTH,),
            ffn_gate_inp__bias=(_EXPERTS,),
            ffn_gate_exps__bias=(_EXPERTS, _EXPERT_INNER),
            ffn_up_exps__bias=(_EXPERTS, _EXPERT_INNER),
            ffn_down_exps__bias=(_EXPERTS, _WIDTH),
        )


def _gemma(model: _Model) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _gemma2(model: _Model) -> None:
    model.heads()
    model.gguf.add_sliding_window(_WINDOW)
    model.number("attn_logit_softcapping", 50.0)
    model.number("final_logit_softcapping", 30.0)
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)
        model.layer(number, post_attention_norm__weight=(_WIDTH,), post_ffw_norm__weight=(_WIDTH,))


def _gemma3(model: _Model) -> None:
    model.heads()
    model.gguf.add_sliding_window(_WINDOW)
    model.number("rope.freq_base_swa", 500.0)
    for number in range(LAYERS):
        model.attention(number)
        model.qk_norm(number)
        model.gated(number)
        model.layer(number, post_attention_norm__weight=(_WIDTH,), post_ffw_norm__weight=(_WIDTH,))


def _granite(model: _Model) -> None:
    model.heads()
    for name, value in (("embedding_scale", 12.0), ("residual_scale", 0.22), ("logit_scale", 8.0)):
        model.number(name, value)
    model.number("attention.scale", 0.125)
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _deepseek2(model: _Model) -> None:
    nope, value = _HEAD, _HEAD
    model.gguf.add_head_count_kv(1)
    model.expert_counts()
    model.gguf.add_rope_dimension_count(_ROTATED)
    sizes = {
        "leading_dense_block_count": 2,
        "attention.q_lora_rank": _Q_RANK,
        "attention.kv_lora_rank": _KV_RANK,
        "attention.key_length": _KV_RANK + _ROTATED,
        "attention.value_length": _KV_RANK,
        "attention.key_length_mla": nope + _ROTATED,
        "attention.value_length_mla": value,
        "expert_shared_count": 1,
        "expert_weights_scale": 1.0,
    }
    for name, size in sizes.items():
        model.number(name, size)
    for number in range(LAYERS):
        model.layer(
            number,
            attn_norm__weight=(_WIDTH,),
            attn_q_a__weight=(_Q_RANK, _WIDTH),
            attn_q_a_norm__weight=(_Q_RANK,),
            attn_q_b__weight=(_HEADS * (nope + _ROTATED), _Q_RANK),
            attn_kv_a_mqa__weight=(_KV_RANK + _ROTATED, _WIDTH),
            attn_kv_a_norm__weight=(_KV_RANK,),
            attn_k_b__weight=(_HEADS, _KV_RANK, nope),
            attn_v_b__weight=(_HEADS, value, _KV_RANK),
            attn_output__weight=(_WIDTH, _HEADS * value),
        )
        if number < sizes["leading_dense_block_count"]:
            model.gated(number)
            continue
        model.layer(
            number,
            ffn_norm__weight=(_WIDTH,),
            ffn_gate_shexp__weight=(_EXPERT_INNER, _WIDTH),
            ffn_up_shexp__weight=(_EXPERT_INNER, _WIDTH),
            ffn_down_shexp__weight=(_WIDTH, _EXPERT_INNER),
        )
        model.experts(number)


WRITERS: Final[dict[str, Callable[[_Model], None]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "phi3": _phi3,
    "gpt-oss": _gpt_oss,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "granite": _granite,
    "deepseek2": _deepseek2,
}


def write_sliceable(architecture: str, folder: Path) -> Path:
    """A model of `LAYERS` layers."""
    path = folder / f"{architecture}.gguf"
    model = _Model(path, architecture)
    WRITERS[architecture](model)
    model.save()
    return path
