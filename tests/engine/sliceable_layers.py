"""What stands in one layer of an architecture: pieces from which the table of sliceable models is put together."""

from collections.abc import Callable
from typing import Final

from tests.engine.tiny_transformer import (
    EXPERT_INNER,
    EXPERTS,
    HEAD,
    HEADS,
    INNER,
    KV_HEADS,
    WIDTH,
    TinyTransformer,
)

Piece = Callable[[TinyTransformer, int], None]
"""Adds weights to the layer of this number."""

QUERY_RANK: Final = 48
LATENT_RANK: Final = 64
ROTATED: Final = 32
DENSE_LAYERS: Final = 2
"""So many layers of DeepSeek come before those with experts."""


def attention(model: TinyTransformer, number: int) -> None:
    model.attention(number)


def bare_attention(model: TinyTransformer, number: int) -> None:
    model.attention(number, norm=False)


def fused_attention(model: TinyTransformer, number: int) -> None:
    model.norm(number, "attn_norm")
    model.layer(number, attn_qkv__weight=(3 * HEADS * HEAD, WIDTH), attn_output__weight=(WIDTH, WIDTH))


def square_attention(model: TinyTransformer, number: int) -> None:
    model.layer(number, **{f"attn_{name}__weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")})


def latent_attention(model: TinyTransformer, number: int) -> None:
    model.layer(
        number,
        attn_norm__weight=(WIDTH,),
        attn_q_a__weight=(QUERY_RANK, WIDTH),
        attn_q_a_norm__weight=(QUERY_RANK,),
        attn_q_b__weight=(HEADS * (HEAD + ROTATED), QUERY_RANK),
        attn_kv_a_mqa__weight=(LATENT_RANK + ROTATED, WIDTH),
        attn_kv_a_norm__weight=(LATENT_RANK,),
        attn_k_b__weight=(HEADS, LATENT_RANK, HEAD),
        attn_v_b__weight=(HEADS, HEAD, LATENT_RANK),
        attn_output__weight=(WIDTH, HEADS * HEAD),
    )


def qkv_bias(model: TinyTransformer, number: int) -> None:
    model.qkv_bias(number)


def qk_norm(model: TinyTransformer, number: int) -> None:
    model.qk_norm(number)


def wide_qk_norm(model: TinyTransformer, number: int) -> None:
    model.layer(number, attn_q_norm__weight=(WIDTH,), attn_k_norm__weight=(KV_HEADS * HEAD,))


def norms(*names: str, bias: bool = False) -> Piece:
    return lambda model, number: model.norm(number, *names, bias=bias)


def gated(model: TinyTransformer, number: int) -> None:
    model.gated(number)


def bare_gated(model: TinyTransformer, number: int) -> None:
    model.gated(number, norm=False)


def fused_gated(model: TinyTransformer, number: int) -> None:
    model.norm(number, "ffn_norm")
    model.layer(number, ffn_up__weight=(2 * INNER, WIDTH), ffn_down__weight=(WIDTH, INNER))


def biased_dense(model: TinyTransformer, number: int) -> None:
    model.layer(
        number,
        attn_output__bias=(WIDTH,),
        ffn_up__weight=(INNER, WIDTH),
        ffn_up__bias=(INNER,),
        ffn_down__weight=(WIDTH, INNER),
        ffn_down__bias=(WIDTH,),
    )


def experts(model: TinyTransformer, number: int) -> None:
    model.experts(number)


def big_experts(model: TinyTransformer, number: int) -> None:
    model.experts(number, INNER)


def biased_experts(model: TinyTransformer, number: int) -> None:
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


def shared_expert(model: TinyTransformer, number: int) -> None:
    model.shared_expert(number)


def dense_then(*pieces: Piece) -> Piece:
    """DeepSeek's first layers are dense; the pieces stand in the others."""

    def write(model: TinyTransformer, number: int) -> None:
        for piece in (gated,) if number < DENSE_LAYERS else pieces:
            piece(model, number)

    return write


def expert_bias(model: TinyTransformer, number: int) -> None:
    model.layer(number, exp_probs_b__bias=(EXPERTS,))
