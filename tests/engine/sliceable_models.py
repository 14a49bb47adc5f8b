"""A tiny random model of every architecture that can be sliced, with all that is peculiar to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.engine.sliceable_more import MORE
from tests.engine.tiny_transformer import (
    EXPERT_INNER,
    EXPERTS,
    HEAD,
    HEADS,
    INNER,
    LAYERS,
    WIDTH,
    WINDOW,
    TinyTransformer,
)

_Q_RANK, _KV_RANK, _ROTATED = 48, 64, 32


def _llama(model: TinyTransformer) -> None:
    model.heads()
    model.output()
    model.tensor("rope_freqs.weight", HEAD // 2)
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _llama_with_experts(model: TinyTransformer) -> None:
    model.heads()
    model.gguf.add_expert_count(EXPERTS)
    model.gguf.add_expert_used_count(2)
    for number in range(LAYERS):
        model.attention(number)
        model.norm(number, "ffn_norm")
        model.experts(number, INNER)


def _qwen2(model: TinyTransformer) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number)
        model.qkv_bias(number)
        model.gated(number)


def _qwen3(model: TinyTransformer) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number)
        model.qk_norm(number)
        model.gated(number)


def _qwen3moe(model: TinyTransformer) -> None:
    model.heads()
    model.expert_counts()
    for number in range(LAYERS):
        model.attention(number)
        model.qk_norm(number)
        model.norm(number, "ffn_norm")
        model.experts(number)


def _phi3(model: TinyTransformer) -> None:
    model.heads(HEADS)
    model.output()
    for number in range(LAYERS):
        model.layer(
            number,
            attn_norm__weight=(WIDTH,),
            attn_qkv__weight=(3 * HEADS * HEAD, WIDTH),
            attn_output__weight=(WIDTH, WIDTH),
            ffn_norm__weight=(WIDTH,),
            ffn_up__weight=(2 * INNER, WIDTH),
            ffn_down__weight=(WIDTH, INNER),
        )


def _long_phi3(model: TinyTransformer) -> None:
    _phi3(model)
    model.number("rope.scaling.original_context_length", 64)
    model.gguf.add_sliding_window(WINDOW)
    for length in ("long", "short"):
        model.tensor(f"rope_factors_{length}.weight", HEAD // 2)


def _gpt_oss(model: TinyTransformer) -> None:
    model.heads()
    model.expert_counts()
    model.gguf.add_sliding_window(WINDOW)
    model.output()
    for number in range(LAYERS):
        model.attention(number)
        model.qkv_bias(number)
        model.experts(number)
        model.layer(
            number,
            post_attention_norm__weight=(WIDTH,),
            attn_sinks__weight=(HEADS,),
            attn_output__bias=(WIDTH,),
            ffn_gate_inp__bias=(EXPERTS,),
            ffn_gate_exps__bias=(EXPERTS, EXPERT_INNER),
            ffn_up_exps__bias=(EXPERTS, EXPERT_INNER),
            ffn_down_exps__bias=(EXPERTS, WIDTH),
        )


def _gemma(model: TinyTransformer) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _gemma2(model: TinyTransformer) -> None:
    model.heads()
    model.gguf.add_sliding_window(WINDOW)
    model.number("attn_logit_softcapping", 50.0)
    model.number("final_logit_softcapping", 30.0)
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)
        model.norm(number, "post_attention_norm", "post_ffw_norm")


def _gemma3(model: TinyTransformer) -> None:
    model.heads()
    model.gguf.add_sliding_window(WINDOW)
    model.number("rope.freq_base_swa", 500.0)
    for number in range(LAYERS):
        model.attention(number)
        model.qk_norm(number)
        model.gated(number)
        model.norm(number, "post_attention_norm", "post_ffw_norm")


def _gemma3_by_layer(model: TinyTransformer) -> None:
    _gemma3(model)
    model.gguf.add_array("gemma3.attention.sliding_window_pattern", [True, False, True, True] * (LAYERS // 4))


def _gemma3_by_period(model: TinyTransformer) -> None:
    _gemma3(model)
    model.number("attention.sliding_window_pattern", 3)


def _granite(model: TinyTransformer) -> None:
    model.heads()
    for name, value in (("embedding_scale", 12.0), ("residual_scale", 0.22), ("logit_scale", 8.0)):
        model.number(name, value)
    model.number("attention.scale", 0.125)
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _deepseek2(model: TinyTransformer) -> None:
    nope, value = HEAD, HEAD
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
            attn_norm__weight=(WIDTH,),
            attn_q_a__weight=(_Q_RANK, WIDTH),
            attn_q_a_norm__weight=(_Q_RANK,),
            attn_q_b__weight=(HEADS * (nope + _ROTATED), _Q_RANK),
            attn_kv_a_mqa__weight=(_KV_RANK + _ROTATED, WIDTH),
            attn_kv_a_norm__weight=(_KV_RANK,),
            attn_k_b__weight=(HEADS, _KV_RANK, nope),
            attn_v_b__weight=(HEADS, value, _KV_RANK),
            attn_output__weight=(WIDTH, HEADS * value),
        )
        if number < sizes["leading_dense_block_count"]:
            model.gated(number)
            continue
        model.norm(number, "ffn_norm")
        model.shared_expert(number)
        model.experts(number)


def _deepseek3(model: TinyTransformer) -> None:
    _deepseek2(model)
    model.number("expert_gating_func", 2)
    model.gguf.add_bool("deepseek2.expert_weights_norm", True)
    for number in range(2, LAYERS):
        model.layer(number, exp_probs_b__bias=(EXPERTS,))


WRITERS: Final[dict[str, Callable[[TinyTransformer], None]]] = MORE | {
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


VARIANTS: Final[dict[str, tuple[str, Callable[[TinyTransformer], None]]]] = {
    "llama with experts": ("llama", _llama_with_experts),
    "phi3 for long texts": ("phi3", _long_phi3),
    "gemma3 layer by layer": ("gemma3", _gemma3_by_layer),
    "gemma3 by another period": ("gemma3", _gemma3_by_period),
    "deepseek2 as of v3": ("deepseek2", _deepseek3),
}


def write_sliceable(name: str, folder: Path) -> Path:
    """A model of `LAYERS` layers: an architecture, or a variant of one."""
    architecture, write = VARIANTS.get(name) or (name, WRITERS[name])
    path = folder / f"{name.replace(' ', '-')}.gguf"
    model = TinyTransformer(path, architecture)
    write(model)
    model.save()
    return path
