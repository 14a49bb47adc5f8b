"""Tiny models of the rarer architectures that can be sliced."""

from collections.abc import Callable
from typing import Final

from tests.engine.tiny_transformer import EXPERT_INNER, HEAD, INNER, KV_HEADS, LAYERS, WIDTH, WINDOW, TinyTransformer

_POSTERIOR = ("post_attention_norm", "post_ffw_norm")


def _internlm2(model: TinyTransformer) -> None:
    model.heads()
    model.output()
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _mistral3(model: TinyTransformer) -> None:
    model.heads()
    model.number("attention.temperature_scale", 0.1)
    model.number("rope.scaling.original_context_length", 16)
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _smollm3(model: TinyTransformer) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number)


def _seed_oss(model: TinyTransformer) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number)
        model.qkv_bias(number)
        model.norm(number, "post_attention_norm")
        model.gated(number, norm=False)


def _starcoder2(model: TinyTransformer) -> None:
    model.heads()
    model.gguf.add_layer_norm_eps(1e-5)
    model.tensor("output_norm.bias", WIDTH)
    for number in range(LAYERS):
        model.norm(number, "attn_norm", "ffn_norm", bias=True)
        model.attention(number, norm=False)
        model.qkv_bias(number)
        model.layer(
            number,
            attn_output__bias=(WIDTH,),
            ffn_up__weight=(INNER, WIDTH),
            ffn_up__bias=(INNER,),
            ffn_down__weight=(WIDTH, INNER),
            ffn_down__bias=(WIDTH,),
        )


def _olmo2(model: TinyTransformer) -> None:
    model.heads()
    model.gguf.add_sliding_window(WINDOW)
    model.output()
    for number in range(LAYERS):
        model.attention(number, norm=False)
        model.layer(number, attn_q_norm__weight=(WIDTH,), attn_k_norm__weight=(KV_HEADS * HEAD,))
        model.gated(number, norm=False)
        model.norm(number, *_POSTERIOR)


def _olmoe(model: TinyTransformer) -> None:
    model.gguf.add_head_count_kv(2)
    model.gguf.add_expert_count(4)
    model.gguf.add_expert_used_count(2)
    model.output()
    square = {f"attn_{name}__weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    for number in range(LAYERS):
        model.layer(number, **square)
        model.norm(number, "attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm")
        model.experts(number, INNER)


def _qwen2moe(model: TinyTransformer) -> None:
    model.heads()
    model.expert_counts()
    model.number("expert_shared_feed_forward_length", EXPERT_INNER)
    model.output()
    for number in range(LAYERS):
        model.attention(number)
        model.qkv_bias(number)
        model.norm(number, "ffn_norm", "ffn_gate_inp_shexp")
        model.experts(number)
        model.shared_expert(number)


def _granitemoe(model: TinyTransformer) -> None:
    model.heads()
    model.gguf.add_expert_count(4)
    model.gguf.add_expert_used_count(2)
    for name, value in (("embedding_scale", 12.0), ("residual_scale", 0.22), ("logit_scale", 6.0)):
        model.number(name, value)
    model.number("attention.scale", 0.125)
    for number in range(LAYERS):
        model.attention(number)
        model.norm(number, "ffn_norm")
        model.experts(number, INNER)


def _command_r(model: TinyTransformer) -> None:
    model.heads()
    model.gguf.add_layer_norm_eps(1e-5)
    model.number("logit_scale", 0.0625)
    for number in range(LAYERS):
        model.attention(number)
        model.gated(number, norm=False)


def _cohere2(model: TinyTransformer) -> None:
    _command_r(model)
    model.gguf.add_sliding_window(WINDOW)


def _exaone4(model: TinyTransformer) -> None:
    model.heads()
    for number in range(LAYERS):
        model.attention(number, norm=False)
        model.qk_norm(number)
        model.gated(number, norm=False)
        model.norm(number, *_POSTERIOR)


MORE: Final[dict[str, Callable[[TinyTransformer], None]]] = {
    "internlm2": _internlm2,
    "mistral3": _mistral3,
    "smollm3": _smollm3,
    "seed_oss": _seed_oss,
    "starcoder2": _starcoder2,
    "olmo2": _olmo2,
    "olmoe": _olmoe,
    "qwen2moe": _qwen2moe,
    "granitemoe": _granitemoe,
    "command-r": _command_r,
    "cohere2": _cohere2,
    "exaone4": _exaone4,
}
