"""What a model is, told from the headers of its files: for `twd inspect`."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from twd.gguf_tools.head_report import OwnHeadFacts, head_file_words, own_head_facts
from twd.gguf_tools.header import GgufHeader, TensorInfo
from twd.gguf_tools.inspect import GgufInfo
from twd.gguf_tools.slice_layout import require_sliceable
from twd.gguf_tools.slice_rules import cuts_of
from twd.moe.model import MixtureFile, NotAMixture, read_mixture
from twd.moe.names import is_shared
from twd.wire.failures import TwdError

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")


class TypeShare(msgspec.Struct, frozen=True):
    """All tensors of one number format."""

    type: str
    tensors: int
    parameters: int
    size_bytes: int


class TensorRole(msgspec.Struct, frozen=True):
    """Tensors with one name in all layers, or one tensor outside of them; types with the number of tensors of each."""

    name: str
    tensors: int
    shape: tuple[int, ...]
    types: dict[str, int]
    size_bytes: int


class ExpertFacts(msgspec.Struct, frozen=True):
    """A mixture in short; `twd moe summary` tells more."""

    experts: int
    used: int
    shared: bool
    layout: str
    """fused, or indexed: single experts, which llama.cpp refuses."""
    size_bytes: int


class CutFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a model may be cut into slices for a ring."""

    possible: bool
    why_not: str = ""
    begins_at_multiples_of: int = 1
    never_of_layers: tuple[int, ...] = ()


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one model. Sizes in bytes are those of the stored weights."""

    name: str
    architecture: str
    quantization: str
    parameters: int
    size_bytes: int
    bits_per_weight: float
    files: int
    layers: int
    layer_bytes: list[int]
    other_bytes: int
    embedding: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    context_length: int
    cache_bytes_per_token: int
    """With keys and values as F16."""
    vocabulary: int
    tokenizer: str
    chat_template: str
    experts: ExpertFacts | None
    own_head: OwnHeadFacts | None = None
    head_file: str = ""
    """What it holds if it is the file of a trained head."""
    cut: CutFacts
    types: list[TypeShare]
    tensors: list[TensorRole]


def report_of(info: GgufInfo, shards: Sequence[GgufHeader]) -> ModelReport:
    """Return the facts of a model from its inspected files."""
    weights = info.weight_bytes
    return ModelReport(
        name=info.name,
        architecture=info.architecture,
        quantization=info.quantization,
        parameters=info.parameters,
        size_bytes=info.size_bytes,
        bits_per_weight=round(8 * weights / max(1, info.parameters), 2),
        files=len(info.shards),
        layers=info.layers,
        layer_bytes=info.layer_bytes,
        other_bytes=info.other_bytes,
        embedding=info.embedding,
        heads=info.heads,
        kv_heads=info.kv_heads,
        key_length=info.key_length,
        value_length=info.value_length,
        context_length=info.context_length,
        cache_bytes_per_token=info.kv_bytes_per_token(),
        vocabulary=info.vocabulary,
        tokenizer=info.tokenizer,
        chat_template=info.chat_template,
        experts=_experts(info),
        own_head=own_head_facts(info),
        head_file=head_file_words(shards[0]),
        cut=_cut(shards),
        types=type_shares(info.tensors),
        tensors=tensor_roles(info.tensors),
    )


def _experts(info: GgufInfo) -> ExpertFacts | None:
    try:
        mixture = read_mixture(info.path)
    except NotAMixture:
        return None
    return ExpertFacts(
        experts=mixture.experts,
        used=mixture.used,
        shared=any(is_shared(one.info.name) for one in mixture.others),
        layout="fused" if not mixture.indexed else "mixed" if mixture.fused else "indexed",
        size_bytes=_expert_bytes(mixture),
    )


def _expert_bytes(mixture: MixtureFile) -> int:
    single = (one for many in mixture.indexed.values() for one in many.values())
    return sum(one.info.size_bytes for one in (*mixture.fused.values(), *single))


def _cut(shards: Sequence[GgufHeader]) -> CutFacts:
    try:
        require_sliceable(shards)
    except TwdError as error:
        return CutFacts(possible=False, why_not=str(error))
    cuts = cuts_of(shards[0])
    return CutFacts(True, begins_at_multiples_of=cuts.multiple, never_of_layers=cuts.odd_counts)


def type_shares(tensors: Iterable[TensorInfo]) -> list[TypeShare]:
    """Return what each number format holds, the largest first."""
    found: dict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in tensors:
        found[tensor.kind.name].append(tensor)
    shares = [
        TypeShare(name, len(some), sum(one.elements for one in some), sum(one.size_bytes for one in some))
        for name, some in found.items()
    ]
    return sorted(shares, key=lambda share: -share.size_bytes)


def tensor_roles(tensors: Iterable[TensorInfo]) -> list[TensorRole]:
    """Return the tensors by their name in a layer, in the order of the file; the shape is that of the first layer."""
    found: dict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in tensors:
        found[_NUMBER.sub("*", tensor.name)].append(tensor)
    return [
        TensorRole(
            name,
            len(some),
            some[0].shape,
            dict(Counter(one.kind.name for one in some).most_common()),
            sum(one.size_bytes for one in some),
        )
        for name, some in found.items()
    ]
