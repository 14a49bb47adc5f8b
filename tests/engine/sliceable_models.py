"""A tiny random model of every architecture that can be sliced, with all that is peculiar to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.engine import sliceable_layers as piece
from tests.engine.tiny_transformer import EXPERT_INNER, HEAD, HEADS, LAYERS, WIDTH, WINDOW, TinyTransformer

_BEHIND: Final = piece.norms("post_attention_norm", "post_ffw_norm")
_BEFORE_EXPERTS: Final = piece.norms("ffn_norm")
_GRANITE: Final = {"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.125}


@dataclass(frozen=True)
class Shape:
    """What a model of some architecture is made of."""

    layer: tuple[piece.Piece, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    heads: int | None = 1
    """Heads of keys and values; None where `more` tells of heads."""
    output: bool = False
    """A head of its own; the others share the embedding."""
    window: bool = False
    """Some layers look back only so far."""
    experts: bool = False
    experts_inner: bool = True
    """The width of experts is told apart from that of dense layers."""
    more: Callable[[TinyTransformer], None] = lambda model: None

    def write(self, model: TinyTransformer) -> None:
        """Add everything but the file's beginning and end."""
        if self.heads is not None:
            model.heads(self.heads)
        if self.experts:
            model.expert_counts(EXPERT_INNER if self.experts_inner else None)
        if self.window:
            model.gguf.add_sliding_window(WINDOW)
        for name, value in self.numbers.items():
            model.number(name, value)
        if self.output:
            model.output()
        self.more(model)
        for number in range(LAYERS):
            for add in self.layer:
                add(model, number)


def _layer_norm(model: TinyTransformer) -> None:
    model.gguf.add_layer_norm_eps(1e-5)


def _layer_norm_with_bias(model: TinyTransformer) -> None:
    _layer_norm(model)
    model.tensor("output_norm.bias", WIDTH)


def _rope_factors(*names: str) -> Callable[[TinyTransformer], None]:
    def add(model: TinyTransformer) -> None:
        for name in names:
            model.tensor(f"{name}.weight", HEAD // 2)

    return add


def _one_kind_of_heads(model: TinyTransformer) -> None:
    model.gguf.add_head_count_kv(HEADS)


def _latent_heads(model: TinyTransformer) -> None:
    model.gguf.add_head_count_kv(1)
    model.gguf.add_rope_dimension_count(piece.ROTATED)


def _latent_heads_of_v3(model: TinyTransformer) -> None:
    _latent_heads(model)
    model.gguf.add_bool("deepseek2.expert_weights_norm", True)


def _by_layer(model: TinyTransformer) -> None:
    model.gguf.add_array("gemma3.attention.sliding_window_pattern", [True, False, True, True] * (LAYERS // 4))


_PLAIN: Final = Shape((piece.attention, piece.gated))
_COMMAND_R: Final = Shape((piece.attention, piece.bare_gated), {"logit_scale": 0.0625}, more=_layer_norm)
_PHI3: Final = Shape((piece.fused_attention, piece.fused_gated), heads=HEADS, output=True)
_GEMMA3: Final = Shape(
    (piece.attention, piece.qk_norm, piece.gated, _BEHIND), {"rope.freq_base_swa": 500.0}, window=True
)
_DEEPSEEK2: Final = Shape(
    (piece.latent_attention, piece.dense_then(_BEFORE_EXPERTS, piece.shared_expert, piece.experts)),
    {
        "leading_dense_block_count": piece.DENSE_LAYERS,
        "attention.q_lora_rank": piece.QUERY_RANK,
        "attention.kv_lora_rank": piece.LATENT_RANK,
        "attention.key_length": piece.LATENT_RANK + piece.ROTATED,
        "attention.value_length": piece.LATENT_RANK,
        "attention.key_length_mla": HEAD + piece.ROTATED,
        "attention.value_length_mla": HEAD,
        "expert_shared_count": 1,
        "expert_weights_scale": 1.0,
    },
    heads=None,
    experts=True,
    more=_latent_heads,
)

SHAPES: Final[dict[str, Shape]] = {
    "llama": replace(_PLAIN, output=True, more=_rope_factors("rope_freqs")),
    "internlm2": replace(_PLAIN, output=True),
    "smollm3": _PLAIN,
    "gemma": _PLAIN,
    "mistral3": replace(
        _PLAIN, numbers={"attention.temperature_scale": 0.1, "rope.scaling.original_context_length": 16}
    ),
    "granite": replace(_PLAIN, numbers=_GRANITE | {"logit_scale": 8.0}),
    "granitemoe": Shape(
        (piece.attention, _BEFORE_EXPERTS, piece.big_experts),
        _GRANITE | {"logit_scale": 6.0},
        experts=True,
        experts_inner=False,
    ),
    "qwen2": Shape((piece.attention, piece.qkv_bias, piece.gated)),
    "qwen2moe": Shape(
        (
            *(piece.attention, piece.qkv_bias, piece.norms("ffn_norm", "ffn_gate_inp_shexp")),
            *(piece.experts, piece.shared_expert),
        ),
        {"expert_shared_feed_forward_length": EXPERT_INNER},
        experts=True,
        output=True,
    ),
    "qwen3": Shape((piece.attention, piece.qk_norm, piece.gated)),
    "qwen3moe": Shape((piece.attention, piece.qk_norm, _BEFORE_EXPERTS, piece.experts), experts=True),
    "phi3": _PHI3,
    "gpt-oss": Shape((piece.attention, piece.qkv_bias, piece.biased_experts), experts=True, window=True, output=True),
    "gemma2": Shape(
        (piece.attention, piece.gated, _BEHIND),
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        window=True,
    ),
    "gemma3": _GEMMA3,
    "deepseek2": _DEEPSEEK2,
    "seed_oss": Shape((piece.attention, piece.qkv_bias, piece.norms("post_attention_norm"), piece.bare_gated)),
    "starcoder2": Shape(
        (
            *(piece.norms("attn_norm", "ffn_norm", bias=True), piece.bare_attention),
            *(piece.qkv_bias, piece.biased_dense),
        ),
        more=_layer_norm_with_bias,
    ),
    "olmo2": Shape((piece.bare_attention, piece.wide_qk_norm, piece.bare_gated, _BEHIND), window=True, output=True),
    "olmoe": Shape(
        (
            piece.square_attention,
            piece.norms("attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm"),
            piece.big_experts,
        ),
        heads=None,
        experts=True,
        experts_inner=False,
        output=True,
        more=_one_kind_of_heads,
    ),
    "command-r": _COMMAND_R,
    "cohere2": replace(_COMMAND_R, window=True),
    "exaone4": Shape((piece.bare_attention, piece.qk_norm, piece.bare_gated, _BEHIND)),
}

VARIANTS: Final[dict[str, tuple[str, Shape]]] = {
    "llama with experts": (
        "llama",
        Shape((piece.attention, _BEFORE_EXPERTS, piece.big_experts), experts=True, experts_inner=False),
    ),
    "phi3 for long texts": (
        "phi3",
        replace(
            _PHI3,
            numbers={"rope.scaling.original_context_length": 64},
            window=True,
            more=_rope_factors("rope_factors_long", "rope_factors_short"),
        ),
    ),
    "gemma3 layer by layer": ("gemma3", replace(_GEMMA3, more=_by_layer)),
    "gemma3 by another period": (
        "gemma3",
        replace(_GEMMA3, numbers={**_GEMMA3.numbers, "attention.sliding_window_pattern": 3}),
    ),
    "deepseek2 as of v3": (
        "deepseek2",
        replace(
            _DEEPSEEK2,
            layer=(
                piece.latent_attention,
                piece.dense_then(_BEFORE_EXPERTS, piece.shared_expert, piece.experts, piece.expert_bias),
            ),
            numbers={**_DEEPSEEK2.numbers, "expert_gating_func": 2},
            more=_latent_heads_of_v3,
        ),
    ),
}


def write_sliceable(name: str, folder: Path) -> Path:
    """A model of `LAYERS` layers: an architecture, or a variant of one."""
    architecture, shape = VARIANTS.get(name) or (name, SHAPES[name])
    path = folder / f"{name.replace(' ', '-')}.gguf"
    model = TinyTransformer(path, architecture)
    shape.write(model)
    model.save()
    return path
