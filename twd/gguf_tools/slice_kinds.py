"""The kinds of a model's layers: with a sliding window or without, with attention or a recurrent state.

llama.cpp cannot load a slice that lacks a kind of memory of its architecture. Such a slice gets layers of zeros of the
kinds that it lacks.
"""

from collections.abc import Sequence
from typing import Final

from twd.gguf_tools.header import GgufHeader
from twd.gguf_tools.slice_table import RULES

HEAD_LAYERS: Final = "nextn_predict_layers"
"""The field with the number of layers of the model's own head. They follow the other layers, and the slice with the
output head has them."""
HEAD_EMBEDDING: Final = "nextn.embed_tokens.weight"
"""The matrix of a layer of such a head that replaces the model's embedding."""
HEAD_PROJECTION: Final = "nextn.eh_proj.weight"
"""The matrix that each layer of such a head has."""
WINDOWS: Final = "attention.sliding_window_pattern"
SECTIONS: Final = "rope.dimension_sections"
INDEXERS: Final = "attention.indexer.types"
_USUAL_PERIOD: Final = 4
_SHARED_BY_DEFAULT: Final = 1 << 20
"""The least context length at which a glm-dsa file without the field of indexers has shared ones."""


def layers_of(header: GgufHeader) -> int:
    """How many layers a model has, without those of its own head."""
    prefix = header.text("general.architecture")
    return header.number(f"{prefix}.block_count") - header.number(f"{prefix}.{HEAD_LAYERS}")


def window_layers(header: GgufHeader) -> list[bool]:
    """For each layer, whether it uses sliding-window attention."""
    architecture, count = header.text("general.architecture"), layers_of(header)
    key = f"{architecture}.{WINDOWS}"
    one_by_one, rule = header.array(key), RULES[architecture]
    if one_by_one:
        return [bool(one) for one in one_by_one[:count]]
    if not rule.window_period:
        return [False] * count
    period = header.number(key, rule.window_period)
    full = 0 if rule.full_first else period - 1
    return [not period or layer % period != full for layer in range(count)]


def recurrent_layers(header: GgufHeader) -> list[bool]:
    """For each layer, whether it keeps a recurrent state; in models that have such and other layers."""
    architecture, count = header.text("general.architecture"), layers_of(header)
    rule = RULES[architecture]
    if not rule.recurrent:
        return [False] * count
    if rule.recurrent == "period":
        told = "attention.recurrent_layers"
        if header.array(f"{architecture}.{told}"):
            return [bool(one) for one in _by_layer(header, told, count)]
        period = header.number(f"{architecture}.full_attention_interval", _USUAL_PERIOD) or _USUAL_PERIOD
        return [(at + 1) % period != 0 for at in range(count)]
    heads = _by_layer(header, "attention.head_count_kv", count)
    inner = _by_layer(header, "feed_forward_length", count)
    only_heads = rule.recurrent == "no heads"
    return [not heads[at] and (only_heads or not inner[at]) for at in range(count)]


def indexers_of(header: GgufHeader) -> list[int]:
    """For each layer, whether it has an indexer of its own (1) or uses that of an earlier layer (0); empty if the file
    and llama.cpp say nothing about it."""
    architecture = header.text("general.architecture")
    told = header.array(f"{architecture}.{INDEXERS}")
    if told:
        return [int(one) for one in told]
    if architecture != "glm-dsa" or header.number(f"{architecture}.context_length") < _SHARED_BY_DEFAULT:
        return []
    return [int(at < 2 or at % 4 == 2) for at in range(layers_of(header))]


def needed_kinds(header: GgufHeader) -> list[list[bool]]:
    """The kinds of layers that each slice must have: for each kind, which layers are of it."""
    architecture, count = header.text("general.architecture"), layers_of(header)
    rule, wanted = RULES[architecture], [window_layers(header)]
    recurrent = recurrent_layers(header)
    if rule.full_needed:
        wanted.append([not window for window in wanted[0]])
    if any(recurrent):
        wanted += [recurrent, _attention(header, recurrent)]
    if rule.shared_indexers:
        wanted.append([bool(one) for one in indexers_of(header)])
    if rule.sparse_after_lead:
        lead = header.number(f"{architecture}.leading_dense_block_count")
        wanted.append([layer >= lead for layer in range(count)])
    if rule.streams:
        ratios = _by_layer(header, "attention.compress_ratios", count)
        wanted += [[one == ratio for one in ratios] for ratio in sorted({*ratios} - {0})]
    return [kind for kind in wanted if any(kind)]


def last_begin(header: GgufHeader) -> int:
    """The last layer from which on there are layers of all kinds."""
    kinds, last = needed_kinds(header), layers_of(header) - 1
    return min((max(at for at, one in enumerate(kind) if one) for kind in kinds), default=last)


def tail_layers(header: GgufHeader, first: int, end: int, multiple: int) -> list[int]:
    """The layers of the model whose shapes the layers of zeros have that a slice needs; usually none."""
    missing = [kind for kind in needed_kinds(header) if not any(kind[first:end])]
    if first == end and not missing:
        missing = [[True] * layers_of(header)]
    return [_alike(kind, end - first + number, multiple) for number, kind in enumerate(missing)]


def _attention(header: GgufHeader, recurrent: Sequence[bool]) -> list[bool]:
    heads = _by_layer(header, "attention.head_count_kv", len(recurrent))
    return [not state and bool(heads[at]) for at, state in enumerate(recurrent)]


def _alike(kind: Sequence[bool], number: int, multiple: int) -> int:
    """The model's last layer of a kind; where layers differ by their number, one that does not differ from `number`."""
    layers = [at for at, one in enumerate(kind) if one]
    same = [at for at in layers if at % multiple == number % multiple]
    return (same or layers)[-1]


def _by_layer(header: GgufHeader, name: str, count: int) -> list[int]:
    key = f"{header.text('general.architecture')}.{name}"
    told = header.array(key)
    return ([int(one) for one in told] + [0] * count)[:count] if told else [header.number(key)] * count
