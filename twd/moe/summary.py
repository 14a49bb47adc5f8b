"""What a mixture weighs: dense, shared and expert bytes by layer, what a token reads, and what must fit in memory."""

from collections.abc import Iterable
from dataclasses import dataclass

from twd.gguf_tools.inspect import layer_of
from twd.moe.model import MixtureFile, StoredTensor
from twd.moe.names import fused_of, indexed_of, is_shared


@dataclass(slots=True)
class LayerBytes:
    """One layer; `expert` is of all its experts together."""

    layer: int
    dense: int = 0
    shared: int = 0
    expert: int = 0


@dataclass(frozen=True, slots=True)
class MixtureSummary:
    """The facts of a mixture, in bytes as stored."""

    name: str
    architecture: str
    layout: str
    """fused, indexed, or mixed."""
    gate_up: bool
    """Whether gate and up of an expert share a matrix."""
    biases: bool
    shared_experts: bool
    experts: int
    used: int
    layers: tuple[LayerBytes, ...]
    outside: int
    """Of tensors that belong to no layer: embedding, output norm, output matrix."""
    looked_up: int
    """Of `outside`, the embedding where it is not the output matrix, too: a token reads one row of it."""
    size_bytes: int
    embedding: int = 0
    """The embedding alone, which llama.cpp keeps in this machine's memory."""
    slots: int = 0
    """Experts of all layers together."""

    @property
    def dense(self) -> int:
        """All that every token needs, without shared experts."""
        return self.outside + sum(layer.dense for layer in self.layers)

    @property
    def shared(self) -> int:
        """Experts that every token uses."""
        return sum(layer.shared for layer in self.layers)

    @property
    def expert(self) -> int:
        """Experts that are chosen."""
        return sum(layer.expert for layer in self.layers)

    @property
    def resident(self) -> int:
        """What every token reads whatever it chooses."""
        return self.dense + self.shared

    @property
    def chosen(self) -> int:
        """Bytes of the experts that one token chooses."""
        return self.expert * self.used // self.experts

    @property
    def token_reads(self) -> int:
        """Bytes that a token reads."""
        return self.resident - self.looked_up + self.chosen

    @property
    def least_memory(self) -> int:
        """What must fit for a token to be computed without reading dense weights anew: those, and one choice."""
        return self.resident + max((layer.expert * self.used // self.experts for layer in self.layers), default=0)

    @property
    def expert_layers(self) -> tuple[LayerBytes, ...]:
        """The layers that have experts."""
        return tuple(layer for layer in self.layers if layer.expert)


def summarize(model: MixtureFile) -> MixtureSummary:
    """Add up the tensors of a mixture."""
    layers: dict[int, LayerBytes] = {}
    outside = 0
    for tensor in model.tensors:
        number = layer_of(tensor.info.name)
        if number is None:
            outside += tensor.info.size_bytes
        else:
            _add(layers.setdefault(number, LayerBytes(number)), tensor)
    names = {tensor.info.name: tensor.info.size_bytes for tensor in model.others}
    keys = [*model.fused, *model.indexed]
    first = model.headers[0]
    return MixtureSummary(
        name=first.text("general.name", model.path.stem),
        architecture=model.architecture,
        layout="mixed" if model.fused and model.indexed else "fused" if model.fused else "indexed",
        gate_up=any(key.part == "gate_up" for key in keys),
        biases=any(key.suffix == "bias" for key in keys),
        shared_experts=any(map(is_shared, names)),
        experts=model.experts,
        used=model.used,
        layers=tuple(layers[number] for number in sorted(layers)),
        outside=outside,
        looked_up=names.get("token_embd.weight", 0) if "output.weight" in names else 0,
        size_bytes=model.size_bytes,
        embedding=names.get("token_embd.weight", 0),
        slots=model.experts * sum(1 for layer in layers.values() if layer.expert),
    )


def _add(layer: LayerBytes, tensor: StoredTensor) -> None:
    name, size = tensor.info.name, tensor.info.size_bytes
    if fused_of(name) is not None or indexed_of(name) is not None:
        layer.expert += size
    elif is_shared(name):
        layer.shared += size
    else:
        layer.dense += size


def ranges(layers: Iterable[LayerBytes]) -> list[tuple[int, int, LayerBytes]]:
    """Neighbouring layers that weigh the same, as first, last and one of them."""
    found: list[tuple[int, int, LayerBytes]] = []
    for layer in layers:
        last = found[-1] if found else None
        if last and last[1] == layer.layer - 1 and _weights(last[2]) == _weights(layer):
            found[-1] = (last[0], layer.layer, layer)
        else:
            found.append((layer.layer, layer.layer, layer))
    return found


def _weights(layer: LayerBytes) -> tuple[int, int, int]:
    return layer.dense, layer.shared, layer.expert
