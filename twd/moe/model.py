"""A mixture of experts as its file describes it, checked before anything is computed from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.gguf_tools.header import BrokenGguf, GgufHeader, TensorInfo, read_header
from twd.gguf_tools.inspect import layer_of, shards_of
from twd.moe.names import ExpertTensor, fused_of, indexed_of
from twd.wire.failures import FailureCode, TwdError

EXPERTS_MAX: Final = 4096
"""More experts than any model has; a larger count in a header is an error."""
_LAYERS_MAX: Final = 100_000


class NotAMixture(TwdError):
    """The model is dense."""

    def __init__(self, path: Path) -> None:
        super().__init__(FailureCode.BAD_REQUEST, f"{path} is a dense model: it has no experts; name a mixture")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor and the file that holds it."""

    info: TensorInfo
    header: GgufHeader

    @property
    def offset(self) -> int:
        """Where its bytes begin in the file."""
        return self.header.data_offset + self.info.offset


@dataclass(frozen=True, slots=True)
class MixtureFile:
    """The tensors of a mixture. `fused` and `indexed` hold those of its experts, `others` the rest."""

    path: Path
    headers: tuple[GgufHeader, ...]
    architecture: str
    layers: int
    experts: int
    used: int
    tensors: tuple[StoredTensor, ...]
    fused: dict[ExpertTensor, StoredTensor]
    indexed: dict[ExpertTensor, dict[int, StoredTensor]]
    others: tuple[StoredTensor, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(header.file_bytes for header in self.headers)


def read_mixture(path: Path) -> MixtureFile:
    """Read and check the headers of a mixture; raises TwdError for a dense or a contradictory file."""
    headers = tuple(read_header(shard) for shard in shards_of(path))
    first = headers[0]
    architecture = first.text("general.architecture")
    if not architecture or first.text("general.type", "model") != "model":
        raise BrokenGguf(path, "is not a language model; name the file of a mixture")
    tensors = tuple(StoredTensor(info, header) for header in headers for info in header.tensors)
    fused, indexed, others = _sorted(path, tensors)
    experts = _count(first, f"{architecture}.expert_count", EXPERTS_MAX)
    if experts < 2 and not fused and not indexed:
        raise NotAMixture(path)
    found = MixtureFile(
        path=path,
        headers=headers,
        architecture=architecture,
        layers=_count(first, f"{architecture}.block_count", _LAYERS_MAX),
        experts=experts,
        used=_count(first, f"{architecture}.expert_used_count", EXPERTS_MAX),
        tensors=tensors,
        fused=fused,
        indexed=indexed,
        others=others,
    )
    _check(found)
    return found


def is_mixture(path: Path) -> bool:
    """Whether a file names experts; a file that cannot be read does not."""
    try:
        first = read_header(shards_of(path)[0])
        return first.number(f"{first.text('general.architecture')}.expert_count") > 1
    except (TwdError, OSError):
        return False


def _count(header: GgufHeader, key: str, most: int) -> int:
    found = header.number(key)
    if not 0 <= found <= most:
        raise BrokenGguf(header.path, f"corrupt header: {key} is {found}, and at most {most} is possible")
    return found


def _sorted(
    path: Path, tensors: tuple[StoredTensor, ...]
) -> tuple[dict[ExpertTensor, StoredTensor], dict[ExpertTensor, dict[int, StoredTensor]], tuple[StoredTensor, ...]]:
    fused: dict[ExpertTensor, StoredTensor] = {}
    indexed: dict[ExpertTensor, dict[int, StoredTensor]] = {}
    others, seen = [], set()
    for tensor in tensors:
        name = tensor.info.name
        if name in seen:
            raise BrokenGguf(path, f"tensor {name!r} stands in it twice; fetch it again")
        seen.add(name)
        if (key := fused_of(name)) is not None:
            fused[key] = tensor
        elif (one := indexed_of(name)) is not None:
            indexed.setdefault(one[0], {})[one[1]] = tensor
        else:
            others.append(tensor)
    return fused, indexed, tuple(others)


def _check(model: MixtureFile) -> None:
    path, experts = model.path, model.experts
    if experts < 2:
        raise BrokenGguf(path, f"it holds experts, but its header counts {experts}; convert the model again")
    if not 1 <= model.used <= experts:
        raise BrokenGguf(path, f"its header says that {model.used} of {experts} experts are used; convert it again")
    if not model.fused and not model.indexed:
        raise BrokenGguf(path, f"its header counts {experts} experts, but it holds none; convert the model again")
    for key, tensor in model.fused.items():
        _check_fused(model, key, tensor)
    for key, tensors in model.indexed.items():
        _check_indexed(model, key, tensors)
    for stored in (*model.fused.values(), *(one for held in model.indexed.values() for one in held.values())):
        layer = layer_of(stored.info.name)
        if layer is not None and layer >= max(model.layers, 1):
            raise BrokenGguf(path, f"it holds {stored.info.name!r}, but counts {model.layers} layers")


def _check_fused(model: MixtureFile, key: ExpertTensor, tensor: StoredTensor) -> None:
    shape = tensor.info.shape
    if not shape or shape[-1] != model.experts or 0 in shape or tensor.info.size_bytes % model.experts:
        text = f"tensor {key.fused!r} of shape {shape} does not hold {model.experts} experts; convert the model again"
        raise BrokenGguf(model.path, text)
    if key in model.indexed:
        raise BrokenGguf(model.path, f"it holds {key.fused!r} and single experts of the same kind; fetch it again")


def _check_indexed(model: MixtureFile, key: ExpertTensor, tensors: dict[int, StoredTensor]) -> None:
    missing = [expert for expert in range(model.experts) if expert not in tensors]
    if missing:
        names = ", ".join(key.indexed(expert) for expert in missing[:3])
        text = f"{len(missing)} of {model.experts} experts are missing: {names}; fetch or convert it again"
        raise BrokenGguf(model.path, text)
    if len(tensors) > model.experts:
        extra = next(expert for expert in tensors if expert >= model.experts)
        raise BrokenGguf(model.path, f"it holds {key.indexed(extra)!r}, but its header counts {model.experts} experts")
    _check_alike(model, tensors)


def _check_alike(model: MixtureFile, tensors: dict[int, StoredTensor]) -> None:
    """Refuse experts of one layer of which one is empty or unlike the first."""
    first = tensors[0].info
    for expert, tensor in tensors.items():
        if (tensor.info.kind, tensor.info.shape) != (first.kind, first.shape):
            text = (
                f"{tensor.info.name!r} is {tensor.info.kind.name} {tensor.info.shape}, but expert 0 is "
                f"{first.kind.name} {first.shape}; all experts of a layer must be alike: quantize the model again"
            )
            raise BrokenGguf(model.path, text)
        if not tensor.info.shape or 0 in tensor.info.shape:
            raise BrokenGguf(model.path, f"expert {expert} is empty: {tensor.info.name!r}; fetch it again")
