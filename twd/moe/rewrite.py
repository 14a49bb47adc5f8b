"""Fused experts into single ones and back: which bytes of the old file make up each tensor of the new one."""

from dataclasses import dataclass
from pathlib import Path

from twd.gguf_tools.constants import GGMLQuantizationType
from twd.gguf_tools.header import GgufHeader, aligned
from twd.gguf_tools.slice_layout import FileRange
from twd.moe.model import MixtureFile, StoredTensor
from twd.moe.names import ExpertTensor, fused_of, indexed_of
from twd.wire.failures import FailureCode, TwdError

_OF_SHARDS = "split."
_OF_ROWS = ("weight", "bias")
"""Tensors with rows for each expert; others, such as scales, have one number for each."""


@dataclass(frozen=True, slots=True)
class RewrittenTensor:
    """A tensor of the new file, and where its bytes are in the old one, in order."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    sources: tuple[FileRange, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(source.size for source in self.sources)


@dataclass(frozen=True, slots=True)
class RewritePlan:
    """The whole new file."""

    fields: tuple[FileRange, ...]
    tensors: tuple[RewrittenTensor, ...]
    alignment: int
    changed: int
    """How many tensors of the old file do not stand in the new one."""

    @property
    def size_bytes(self) -> int:
        """The bytes of all tensors, as they are aligned."""
        return sum(aligned(tensor.size, self.alignment) for tensor in self.tensors)


def plan_defuse(model: MixtureFile) -> RewritePlan:
    """Each expert gets tensors of its own."""
    if not model.fused:
        raise _nothing_to_do(model, "its experts have tensors of their own already", "twd moe fuse")
    tensors: list[RewrittenTensor] = []
    for tensor in model.tensors:
        key = fused_of(tensor.info.name)
        tensors += [_kept(tensor)] if key is None else _single_experts(model, key, tensor)
    return _plan(model, tensors, len(model.fused))


def plan_fuse(model: MixtureFile) -> RewritePlan:
    """All experts of a layer share one tensor; it stands where the first of them stood."""
    if not model.indexed:
        raise _nothing_to_do(model, "its experts are fused already", "twd moe defuse")
    tensors, done = [], set()
    for tensor in model.tensors:
        found = indexed_of(tensor.info.name)
        if found is None:
            tensors.append(_kept(tensor))
        elif found[0] not in done:
            done.add(found[0])
            tensors.append(_all_experts(model, found[0]))
    return _plan(model, tensors, sum(len(held) for held in model.indexed.values()))


def _nothing_to_do(model: MixtureFile, why: str, other: str) -> TwdError:
    return TwdError(FailureCode.BAD_REQUEST, f"{model.path}: {why}; `{other}` does the opposite")


def _single_experts(model: MixtureFile, key: ExpertTensor, tensor: StoredTensor) -> list[RewrittenTensor]:
    size, info = tensor.info.size_bytes // model.experts, tensor.info
    shape = info.shape[:-1] or (1,)
    return [
        RewrittenTensor(
            key.indexed(expert),
            shape,
            info.kind,
            (FileRange(tensor.header.path, tensor.offset + expert * size, size),),
        )
        for expert in range(model.experts)
    ]


def _all_experts(model: MixtureFile, key: ExpertTensor) -> RewrittenTensor:
    held = [model.indexed[key][expert] for expert in range(model.experts)]
    info = held[0].info
    number = info.shape == (1,) and key.suffix not in _OF_ROWS
    shape = (model.experts,) if number else (*info.shape, model.experts)
    return RewrittenTensor(key.fused, shape, info.kind, tuple(_range(tensor) for tensor in held))


def _kept(tensor: StoredTensor) -> RewrittenTensor:
    return RewrittenTensor(tensor.info.name, tensor.info.shape, tensor.info.kind, (_range(tensor),))


def _range(tensor: StoredTensor) -> FileRange:
    return FileRange(tensor.header.path, tensor.offset, tensor.info.size_bytes)


def _plan(model: MixtureFile, tensors: list[RewrittenTensor], changed: int) -> RewritePlan:
    first = model.headers[0]
    return RewritePlan(_fields(first), tuple(tensors), max(first.number("general.alignment", 32), 1), changed)


def _fields(first: GgufHeader) -> tuple[FileRange, ...]:
    """Metadata goes over byte by byte; what tells of shards does not, as the new file is one."""
    spans = ((key, span) for key, span in first.spans.items() if not key.startswith(_OF_SHARDS))
    return tuple(FileRange(first.path, start, end - start) for _, (start, end) in spans)


def source_files(model: MixtureFile) -> tuple[Path, ...]:
    """The files that are read."""
    return tuple(header.path for header in model.headers)
