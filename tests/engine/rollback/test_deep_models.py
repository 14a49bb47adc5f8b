"""Snapshots fit into the graphs of deep models: llama.cpp sizes those by the number of tensors, and aborts."""

from dataclasses import replace
from pathlib import Path

from tests.engine.slices.recipes import Recipe, recipe
from twd.engine.context import ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.rollback.find import open_undoable

LAYERS, EXPERTS, USED, WIDTH, INNER = 40, 12, 10, 64, 32
DROPPED = ("ffn_gate", "ffn_up", "ffn_down", "attn_q.bias", "attn_k.bias", "attn_v.bias")


def granite_with_experts() -> Recipe:
    """As the mixtures of Granite 4: one layer in ten with attention, ten experts a token, no bias."""
    one = recipe("granitehybrid")
    state, attention = (
        {name.removeprefix(f"blk.{layer}."): shape for name, shape in one.tensors.items() if f"blk.{layer}." in name}
        for layer in (1, 0)
    )
    experts = {
        "ffn_gate_inp.weight": (EXPERTS, WIDTH),
        "ffn_gate_exps.weight": (EXPERTS, INNER, WIDTH),
        "ffn_up_exps.weight": (EXPERTS, INNER, WIDTH),
        "ffn_down_exps.weight": (EXPERTS, WIDTH, INNER),
        "ffn_gate_shexp.weight": (INNER, WIDTH),
        "ffn_up_shexp.weight": (INNER, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, INNER),
    }
    tensors = {name: shape for name, shape in one.tensors.items() if not name.startswith("blk.")}
    for layer in range(LAYERS):
        of_layer = attention if layer % 10 == 9 else state
        kept = {name: shape for name, shape in of_layer.items() if not name.startswith(DROPPED)}
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in {**kept, **experts}.items()}
    changed = {
        "block_count": ("UINT32", LAYERS),
        "attention.head_count_kv": ("UINT32", [2 if layer % 10 == 9 else 0 for layer in range(LAYERS)]),
        "feed_forward_length": ("UINT32", INNER),
        "expert_count": ("UINT32", EXPERTS),
        "expert_used_count": ("UINT32", USED),
        "expert_shared_feed_forward_length": ("UINT32", INNER),
    }
    return replace(one, fields=one.fields | changed, tensors=tensors)


def test_a_deep_mixture_of_granite_has_all_snapshots(tmp_path: Path) -> None:
    path = granite_with_experts().write(tmp_path / "model.gguf")
    with LoadedGguf.load(ModelLoadOptions(path)) as model:
        context, found = open_undoable(model, ContextSettings(ctx_size=256, parallel=1, threads=1), 16)
        with context:
            assert found.snapshots == 16
