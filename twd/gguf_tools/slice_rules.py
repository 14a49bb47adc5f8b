"""Whether a model can be cut into slices, and where, by the headers of its files."""

import re
from collections.abc import Iterator
from math import lcm
from typing import Final

from twd.gguf_tools.cut_points import ANYWHERE, INSTEAD, CutPoints, SliceRule
from twd.gguf_tools.header import ArrayField, GgufHeader
from twd.gguf_tools.inspect import layer_of
from twd.gguf_tools.slice_kinds import indexers_of, last_begin, layers_of
from twd.gguf_tools.slice_table import RULES, UNCUT

__all__ = [
    "ANYWHERE",
    "INSTEAD",
    "PER_LAYER",
    "RULES",
    "CutPoints",
    "SliceRule",
    "can_slice",
    "cuts_of",
    "odd_tensor",
]

PER_LAYER: Final = frozenset(
    {
        "attention.compress_ratios",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.indexer.types",
        "attention.recurrent_layers",
        "attention.sliding_window_pattern",
        "expert_feed_forward_length",
        "expert_used_count",
        "feed_forward_length",
        "swiglu_clamp_exp",
        "swiglu_clamp_shexp",
    }
)
"""Array fields with one element for each layer."""
_UNCUT_ARRAYS: Final = re.compile(r"^(rope\.dimension_sections|ple\..*)$")
"""Array fields that are the same for all layers."""
_EVERYWHERE: Final = re.compile(
    r"^(token_embd|token_embd_norm|position_embd|output|output_norm|output_hc_\w+"
    r"|per_layer_token_embd|rope_freqs|rope_factors_(long|short))(\.(weight|bias))?$"
)
_NEVER: Final = ("pooling_type",)
_UNSET: Final = (-1, 0, 2**32 - 1)
PLE_LAYERS: Final = "ple.layers"


def can_slice(header: GgufHeader) -> str:
    """Why this model cannot be cut into slices; empty if it can."""
    architecture = header.text("general.architecture")
    rule = RULES.get(architecture)
    if rule is None:
        why = UNCUT.get(architecture, "slices of this architecture are not proven to be exact")
        return f"its architecture is {architecture}: {why}; {INSTEAD}"
    return next(_obstacles(header, architecture, rule), "")


def cuts_of(header: GgufHeader) -> CutPoints:
    """Where a model may be cut. Its architecture must be in `RULES`."""
    architecture = header.text("general.architecture")
    rule, layers = RULES[architecture], layers_of(header)
    return CutPoints(
        architecture=architecture,
        layers=layers,
        multiple=lcm(rule.first_multiple, header.number(f"{architecture}.{rule.step}", 1) or 1),
        odd_counts=tuple(sorted(count for count in rule.odd_counts if count <= layers + 1)),
        tails=rule.layer_inputs or bool(rule.window_period),
        barred=tuple(_barred(header, architecture)),
        last_begin=None if rule.lone_head else last_begin(header),
    )


def _barred(header: GgufHeader, architecture: str) -> Iterator[int]:
    """The layers at which no slice may begin."""
    read_tokens = [
        header.number(f"{architecture}.hash_layer_count"),
        *(int(at) + 1 for at in header.array(f"{architecture}.{PLE_LAYERS}")),
    ]
    indexers = indexers_of(header) if RULES[architecture].shared_indexers else []
    for layer in range(1, layers_of(header)):
        if layer < max(read_tokens) or (indexers and not indexers[layer]):
            yield layer


def _obstacles(header: GgufHeader, architecture: str, rule: SliceRule) -> Iterator[str]:
    layers, all_layers = layers_of(header), header.number(f"{architecture}.block_count")
    if layers in rule.odd_counts:
        yield f"llama.cpp computes {architecture} models of {layers} layers in a way that no slice has; {INSTEAD}"
    for name in (*_NEVER, *rule.unless):
        if header.metadata.get(f"{architecture}.{name}", 0) not in _UNSET:
            yield f"its field {architecture}.{name} is not proven to survive a cut; {INSTEAD}"
    for name in rule.needs:
        if f"{architecture}.{name}" not in header.metadata:
            yield f"it has no field {architecture}.{name}, without which llama.cpp takes no states; {INSTEAD}"
    for name in rule.unless_zero:
        if header.metadata.get(f"{architecture}.{name}", 1) == 0:
            yield f"its field {architecture}.{name} is 0, which is not proven to survive a cut; {INSTEAD}"
    for key, value in header.metadata.items():
        name = key.removeprefix(f"{architecture}.")
        if name == key or not isinstance(value, ArrayField) or _UNCUT_ARRAYS.match(name):
            continue
        if name not in PER_LAYER or value.length not in (layers, all_layers):
            yield f"its field {key} ({value.length} values) is not known to go layer by layer; {INSTEAD}"


def odd_tensor(name: str, layers: int) -> str:
    """Why a tensor prevents its model from being cut; empty if it does not."""
    layer = layer_of(name)
    if layer is None and not _EVERYWHERE.match(name):
        return f"it holds {name}, which no slice is known to need; {INSTEAD}"
    if layer is not None and layer >= layers:
        return f"it holds {name} beyond its {layers} layers; {INSTEAD}"
    return ""
