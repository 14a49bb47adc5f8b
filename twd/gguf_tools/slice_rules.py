"""Which architectures can be cut into slices, where, and what must be rewritten. Tests check every entry.

llama.cpp computes a slice as if it were a whole model. If an architecture uses the number of a layer, or the count of
layers, a slice gives wrong results without an error, unless a rule here handles it. Architectures that are not listed
here are not sliced.
"""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from twd.gguf_tools.header import ArrayField, GgufHeader
from twd.gguf_tools.inspect import layer_of

INSTEAD: Final = "`pool.engine: rpc` pools it without cutting it"


class OutputTensor(enum.Enum):
    """How llama.cpp finds the output matrix of an architecture."""

    OPTIONAL = "its own, else the embedding"
    REQUIRED = "always its own"
    TIED = "always the embedding"


@dataclass(frozen=True, slots=True)
class SliceRule:
    """What slices of one architecture need."""

    layer_inputs: bool = False
    """llama.cpp can give out the input of a layer. Otherwise a callback catches the output of the last layer."""
    window_period: int = 0
    """One of this many layers has full attention, the others a sliding window. The file may say it for each layer."""
    embedding_scale: bool = False
    """The file has a scale for the embedding. It must be applied only once, in the first slice."""
    rescales_states: bool = False
    """llama.cpp scales incoming states like embeddings, so the engine writes the true states back after the scaling."""
    dense_lead: bool = False
    """The first layers have no experts, and the file has their number."""
    output: OutputTensor = OutputTensor.OPTIONAL
    first_multiple: int = 1
    """Layers differ by their number, so a slice must begin at a multiple of this."""
    odd_counts: frozenset[int] = frozenset()
    """llama.cpp computes models with these counts of layers in another way."""
    alive: tuple[str, ...] = ()
    """Tensors that are not zeroed in a layer of zeros, because llama.cpp divides by values made from them."""
    unless: tuple[str, ...] = ()
    """Metadata fields that must be absent or zero."""


@dataclass(frozen=True, slots=True)
class CutPoints:
    """Where one model may be cut."""

    architecture: str = ""
    layers: int = 0
    multiple: int = 1
    """A slice that has layers must begin at a multiple of this."""
    odd_counts: tuple[int, ...] = ()
    """No slice may have one of these counts of layers."""
    tails: bool = False
    """A slice may end with an added layer of zeros, which counts as a layer."""

    def refusal(self, first: int, count: int) -> str:
        """Why no slice may begin at layer `first` and have `count` layers (with a layer of zeros); empty if it may."""
        if count in self.odd_counts:
            return f"llama.cpp computes {self.architecture} models of {count} layers in another way; cut elsewhere"
        if first % self.multiple and first < self.layers:
            begin = f"begin at a multiple of {self.multiple} layers, not at {first}"
            return f"slices of {self.architecture} models {begin}"
        return ""

    def why_not(self, first: int, end: int) -> str:
        """Why a plan must not use a slice of layers `first` to `end`, with or without a layer of zeros; else empty."""
        if (first, end) == (0, self.layers):
            return ""  # can_slice has checked the whole model
        count = end - first
        return self.refusal(first, count) or (self.refusal(first, count + 1) if self.tails else "")


ANYWHERE: Final = CutPoints()

RULES: Final[dict[str, SliceRule]] = {
    "llama": SliceRule(layer_inputs=True),
    "qwen2": SliceRule(),
    "qwen3": SliceRule(layer_inputs=True),
    "qwen3moe": SliceRule(layer_inputs=True),
    "phi3": SliceRule(),
    "gpt-oss": SliceRule(layer_inputs=True, window_period=2, output=OutputTensor.REQUIRED),
    "gemma": SliceRule(rescales_states=True, output=OutputTensor.TIED),
    "gemma2": SliceRule(rescales_states=True, window_period=2, output=OutputTensor.TIED, odd_counts=frozenset({46})),
    "gemma3": SliceRule(window_period=6, odd_counts=frozenset({62})),
    "granite": SliceRule(embedding_scale=True, unless=("deepstack_mapping",)),
    "deepseek2": SliceRule(dense_lead=True, odd_counts=frozenset({26, 27, 47, 48})),
    "internlm2": SliceRule(output=OutputTensor.REQUIRED),
    "mistral3": SliceRule(),
    "smollm3": SliceRule(first_multiple=4),
    "seed_oss": SliceRule(),
    "starcoder2": SliceRule(),
    "olmo2": SliceRule(window_period=4, output=OutputTensor.REQUIRED),
    "olmoe": SliceRule(output=OutputTensor.REQUIRED),
    "qwen2moe": SliceRule(output=OutputTensor.REQUIRED, alive=("ffn_norm.weight", "ffn_gate_inp_shexp.weight")),
    "granitemoe": SliceRule(embedding_scale=True),
    "command-r": SliceRule(output=OutputTensor.TIED, odd_counts=frozenset(range(64, 513))),
    "cohere2": SliceRule(window_period=4, output=OutputTensor.TIED),
    "exaone4": SliceRule(odd_counts=frozenset({64})),
}

PER_LAYER: Final = frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "attention.sliding_window_pattern",
        "feed_forward_length",
        "expert_feed_forward_length",
    }
)
"""Array fields with one element for each layer."""

_EVERYWHERE: Final = re.compile(
    r"^(token_embd|output|output_norm|rope_freqs|rope_factors_(long|short))\.(weight|bias)$"
)
_NEVER: Final = ("nextn_predict_layers", "pooling_type")


def can_slice(header: GgufHeader) -> str:
    """Why this model cannot be cut into slices; empty if it can."""
    architecture = header.text("general.architecture")
    rule = RULES.get(architecture)
    if rule is None:
        known = ", ".join(sorted(RULES))
        return f"slices of architecture {architecture!r} are not proven to be exact (proven: {known}); {INSTEAD}"
    return next(_obstacles(header, architecture, rule), "")


def cuts_of(header: GgufHeader) -> CutPoints:
    """Where a model may be cut. Its architecture must be in `RULES`."""
    architecture = header.text("general.architecture")
    rule, layers = RULES[architecture], header.number(f"{architecture}.block_count")
    return CutPoints(
        architecture=architecture,
        layers=layers,
        multiple=rule.first_multiple,
        odd_counts=tuple(sorted(count for count in rule.odd_counts if count <= layers + 1)),
        tails=rule.layer_inputs or bool(rule.window_period),
    )


def _obstacles(header: GgufHeader, architecture: str, rule: SliceRule) -> Iterator[str]:
    layers = header.number(f"{architecture}.block_count")
    if layers in rule.odd_counts:
        yield f"llama.cpp computes {architecture} models of {layers} layers in a way that no slice has; {INSTEAD}"
    for name in (*_NEVER, *rule.unless):
        if header.metadata.get(f"{architecture}.{name}", 0) != 0:
            yield f"its field {architecture}.{name} is not proven to survive a cut; {INSTEAD}"
    for key, value in header.metadata.items():
        name = key.removeprefix(f"{architecture}.")
        if name != key and isinstance(value, ArrayField) and (name not in PER_LAYER or value.length != layers):
            yield f"its field {key} ({value.length} values) is not known to go layer by layer; {INSTEAD}"


def odd_tensor(name: str, layers: int) -> str:
    """Why a tensor prevents its model from being cut; empty if it does not."""
    layer = layer_of(name)
    if layer is None and not _EVERYWHERE.match(name):
        return f"it holds {name}, which no slice is known to need; {INSTEAD}"
    if layer is not None and layer >= layers:
        return f"it holds {name} beyond its {layers} layers; {INSTEAD}"
    return ""
