"""What computing one token reads of a model: which types of weights, how much of the layers, and the output head."""

import re
from dataclasses import dataclass
from typing import Final

from twd.gguf_tools.inspect import GgufInfo, layer_of

_HEAD: Final = re.compile(r"^(output|output_norm)\.")
_EXPERTS: Final = "_exps."
_OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"


@dataclass(frozen=True, slots=True)
class StepReads:
    """Sizes in bytes, as stored. `kinds`: for each weight type, the share of the layers' bytes that one token reads."""

    layers: int
    layer_bytes: int
    kinds: tuple[tuple[str, float], ...]
    head_bytes: int
    head_kind: str


def step_reads(info: GgufInfo) -> StepReads:
    """What one token reads of this model. Of the experts it reads only those that are used for it."""
    used, read, whole = share_of_experts(info), dict[str, float](), max(1, sum(info.layer_bytes))
    for tensor in info.tensors:
        layer = layer_of(tensor.name)
        if layer is not None and layer < info.layers:
            share = used if _EXPERTS in tensor.name else 1.0
            read[tensor.kind.name] = read.get(tensor.kind.name, 0.0) + share * tensor.size_bytes
    kinds = tuple((kind, min(1.0, size / whole)) for kind, size in sorted(read.items()))
    return StepReads(info.layers, sum(info.layer_bytes), kinds, head_bytes(info), _head_kind(info))


def head_bytes(info: GgufInfo) -> int:
    """The bytes of the output head; a model without its own output matrix uses the embedding."""
    sizes = {tensor.name: tensor.size_bytes for tensor in info.tensors}
    own = sum(size for name, size in sizes.items() if _HEAD.match(name))
    return own if _OUTPUT in sizes else own + sizes.get(EMBEDDING, 0)


def _head_kind(info: GgufInfo) -> str:
    kinds: dict[str, str] = {tensor.name: str(tensor.kind.name) for tensor in info.tensors}
    return kinds.get(_OUTPUT, kinds.get(EMBEDDING, ""))


def share_of_experts(info: GgufInfo) -> float:
    """The share of a layer's experts that one token chooses; 1 for dense models."""
    used, count = (info.metadata.get(f"{info.architecture}.expert_{name}") for name in ("used_count", "count"))
    if not isinstance(used, int) or not isinstance(count, int) or not 0 < used <= count:
        return 1.0
    return used / count
