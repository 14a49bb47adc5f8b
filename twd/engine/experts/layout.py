"""Where the experts of a mixture lie in its files, and where everything else lies. Pure but for reading headers."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.gguf_tools.header import GgufHeader, TensorInfo, read_header
from twd.gguf_tools.inspect import shards_of

_EXPERTS: Final = re.compile(r"^blk\.(\d{1,6})\.ffn_(?:gate_up|gate|up|down)_exps\.weight$")
_MATRIX_OF_EXPERTS: Final = 3
_OF_ROUTERS: Final = re.compile(r"^blk\.(\d{1,6})\.(\w+\.(?:weight|bias))$")
_ROUTER, _NORMS = "ffn_gate_inp.weight", ("ffn_norm.weight", "post_attention_norm.weight")
_BIAS, _CHOICE = "ffn_gate_inp.bias", "exp_probs_b.bias"


@dataclass(frozen=True, slots=True)
class ExpertMatrix:
    """A tensor with all experts of a layer. `offset` is in the file number `shard`, `each` the bytes of one expert."""

    layer: int
    shard: int
    offset: int
    each: int
    experts: int

    @property
    def end(self) -> int:
        """Where it ends in the file."""
        return self.offset + self.each * self.experts


Spot = tuple[int, int]
"""The number of a file, and an offset in it."""


@dataclass(frozen=True, slots=True)
class RouterFloats:
    """Where the floats lie with which a layer chooses its experts: its router, and what else there is."""

    layer: int
    experts: int
    width: int
    weights: Spot
    norm: Spot | None = None
    bias: Spot | None = None
    choice: Spot | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some bytes of the file number `shard`."""

    shard: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """The files of a model as a cache of experts needs them. `dense` is all that is no expert."""

    shards: tuple[Path, ...]
    matrices: tuple[ExpertMatrix, ...]
    dense: tuple[Stretch, ...]
    routers: tuple[RouterFloats, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have experts, in order."""
        return tuple(sorted({matrix.layer for matrix in self.matrices}))

    @property
    def dense_bytes(self) -> int:
        """What stays in memory."""
        return sum(stretch.size for stretch in self.dense)

    @property
    def expert_bytes(self) -> int:
        """All experts of all layers."""
        return sum(matrix.each * matrix.experts for matrix in self.matrices)

    @property
    def slots(self) -> int:
        """Experts of all layers together."""
        return sum({matrix.layer: matrix.experts for matrix in self.matrices}.values())

    def layer_bytes(self, page: int) -> int:
        """The experts of the largest layer. A pass of many tokens may need them all at once."""
        sums: dict[int, int] = {}
        for matrix in self.matrices:
            sums[matrix.layer] = sums.get(matrix.layer, 0) + _pages(matrix.each, page) * matrix.experts
        return max(sums.values(), default=0)

    def padded_bytes(self, page: int) -> int:
        """All experts, counted in whole pages."""
        return sum(_pages(matrix.each, page) * matrix.experts for matrix in self.matrices)


def _pages(size: int, page: int) -> int:
    return -(-size // page) * page


def expert_layout(path: Path) -> ExpertLayout | None:
    """The layout of a model's files; None if it has no experts that llama.cpp could compute."""
    shards = tuple(shards_of(path))
    return layout_of(shards, [read_header(shard) for shard in shards])


def layout_of(shards: tuple[Path, ...], headers: Iterable[GgufHeader]) -> ExpertLayout | None:
    """The same for headers that were read. Pure."""
    matrices: list[ExpertMatrix] = []
    dense: list[Stretch] = []
    floats: dict[tuple[int, str], tuple[Spot, tuple[int, ...]]] = {}
    for shard, header in enumerate(headers):
        for tensor in header.tensors:
            start = header.data_offset + tensor.offset
            if (layer := _layer_of_experts(tensor)) is None:
                dense.append(Stretch(shard, start, start + tensor.size_bytes))
                if (name := _OF_ROUTERS.match(tensor.name)) and tensor.kind.name == "F32":
                    floats[int(name[1]), name[2]] = ((shard, start), tensor.shape)
            else:
                experts = tensor.shape[-1]
                matrices.append(ExpertMatrix(layer, shard, start, tensor.size_bytes // experts, experts))
    if not matrices or not _alike(matrices):
        return None
    counts = {matrix.layer: matrix.experts for matrix in matrices}
    routers = tuple(_routers(counts, floats))
    return ExpertLayout(shards, tuple(sorted(matrices, key=_order)), tuple(_joined(dense)), routers)


def _routers(
    experts: Mapping[int, int], floats: Mapping[tuple[int, str], tuple[Spot, tuple[int, ...]]]
) -> Iterator[RouterFloats]:
    for layer, count in sorted(experts.items()):
        spot, shape = floats.get((layer, _ROUTER), (None, ()))
        if spot is None or len(shape) != 2 or shape[1] != count:
            continue

        def find(*names: str, size: int, layer: int = layer) -> Spot | None:
            found = (floats.get((layer, name)) for name in names)
            return next((one[0] for one in found if one is not None and one[1] == (size,)), None)

        norm = find(*_NORMS, size=shape[0])
        bias, choice = find(_BIAS, size=count), find(_CHOICE, size=count)
        yield RouterFloats(layer, count, shape[0], spot, norm, bias, choice)


def _layer_of_experts(tensor: TensorInfo) -> int | None:
    match = _EXPERTS.match(tensor.name)
    if match is None or len(tensor.shape) != _MATRIX_OF_EXPERTS or tensor.shape[-1] < 2:
        return None
    return int(match[1]) if tensor.size_bytes % tensor.shape[-1] == 0 else None


def _alike(matrices: Iterable[ExpertMatrix]) -> bool:
    """Whether all matrices of a layer hold equally many experts."""
    counts: dict[int, int] = {}
    return all(counts.setdefault(matrix.layer, matrix.experts) == matrix.experts for matrix in matrices)


def _order(matrix: ExpertMatrix) -> tuple[int, int, int]:
    return matrix.layer, matrix.shard, matrix.offset


def _joined(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """Neighbours as one."""
    last: Stretch | None = None
    for one in sorted(stretches, key=lambda stretch: (stretch.shard, stretch.start)):
        if last is not None and one.shard == last.shard and one.start <= last.end:
            last = Stretch(last.shard, last.start, max(last.end, one.end))
        else:
            if last is not None:
                yield last
            last = one
    if last is not None:
        yield last
