"""Decides the metadata and tensors of a slice, using only the headers of the source files.

A slice keeps layers `first` to `end` (not included) and numbers them from 0. The first slice keeps the embedding, the
slice with the head keeps the output matrix, and both keep the tokenizer. Other slices get a vocabulary of
a few rows of zeros instead. A layer of zeros returns its input unchanged. A slice with the head and without layers
needs one before the head. At the end of a slice with a small last layer, it makes llama.cpp give out its input state.

A model's own head (multi-token prediction) goes with the output head. It reads tokens, so that slice has the embedding,
too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from twd.gguf_tools.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from twd.gguf_tools.cut_points import INSTEAD, SliceRule
from twd.gguf_tools.encode import encode_field
from twd.gguf_tools.head_file import FLAT, OWN_HEADS
from twd.gguf_tools.header import ArrayField, GgufHeader, Scalar, TensorInfo
from twd.gguf_tools.inspect import GgufInfo, block_kinds, floats, layer_of
from twd.gguf_tools.slice_kinds import (
    HEAD_EMBEDDING,
    HEAD_LAYERS,
    HEAD_PROJECTION,
    INDEXERS,
    SECTIONS,
    WINDOWS,
    indexers_of,
    layers_of,
    recurrent_layers,
    tail_layers,
    window_layers,
)
from twd.gguf_tools.slice_rules import (
    PER_LAYER,
    can_slice,
    cuts_of,
    odd_tensor,
)
from twd.gguf_tools.slice_table import RULES
from twd.wire.failures import FailureCode, TwdError

FORMAT: Final = 3
_PREFIX: Final = "twd.slice."
_STAND_IN_ROWS: Final = 32
_SMALL_LAYER_BYTES: Final = 64 << 20
_BLOCK: Final = 32
_APART: Final = 4096
"""Gaps of so many bytes between tensors are no gaps: they align the tensors."""
_MATRIX: Final = 2
_SCALE: Final = "embedding_scale"
_RESIDUAL: Final = "residual_scale"
_DEEPSTACK: Final = "n_deepstack_layers"
"""How many layers also take something of a picture. Nothing comes in with text, so slices have none."""
_LEADING: Final = ("leading_dense_block_count", "hash_layer_count")
"""Fields that count layers from the first one on."""


_Fields = dict[str, tuple[GGUFValueType, Scalar | list[Scalar]]]


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """The facts in a slice's metadata: layers `first` to `end` of a model of `layers` layers. `model` is its file hash.

    `tail`: the last layer is a layer of zeros. `floats`: the model has float matrices. `blocks`: the types of the
    model's quantized matrices, as `block_kinds` gives them. `own_head`: it has the layers of the model's own head, too.
    """

    model: str
    first: int
    end: int
    layers: int
    head: bool
    tail: bool
    floats: bool
    blocks: str
    own_head: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is the whole model."""
        return self.first == 0 and self.end == self.layers and self.head

    @property
    def ends(self) -> bool:
        """Whether it has the vocabulary: it is the first slice or has the head."""
        return self.first == 0 or self.head


@dataclass(frozen=True, slots=True)
class FileRange:
    """A byte range of a file: `size` bytes from `offset` on."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SliceTensor:
    """A tensor of a slice; `size` in bytes. Without a source it is all zeros."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    size: int
    source: FileRange | None


@dataclass(slots=True)
class SliceLayout:
    """A slice without the bytes of its weights. `fields` are encoded bytes, or ranges of the source that are copied."""

    facts: SliceFacts
    alignment: int
    fields: list[bytes | FileRange] = field(default_factory=list)
    tensors: list[SliceTensor] = field(default_factory=list)

    def ranges(self, path: Path) -> list[tuple[int, int]]:
        """The [begin, end) of one source file that hold tensors of the slice; neighbours are joined."""
        sources = (one.source for one in self.tensors if one.source is not None and one.source.path == path)
        places = sorted((one.offset, one.offset + one.size) for one in sources)
        joined: list[tuple[int, int]] = []
        for begin, end in places:
            if joined and begin <= joined[-1][1] + _APART:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((begin, end))
        return joined


def lay_out(shards: Sequence[GgufHeader], model: str, first: int, end: int, *, head: bool) -> SliceLayout:
    """The layout of the slice with layers `first` to `end` of the model in `shards`; raises TwdError if impossible."""
    require_sliceable(shards)
    header = shards[0]
    _require_range(layers_of(header), first, end, head)
    facts = SliceFacts(
        model=model,
        first=first,
        end=end,
        layers=layers_of(header),
        head=head,
        tail=bool(_tail(shards, first, end, head)),
        floats=bool(floats(_all(shards))),
        blocks=block_kinds(_all(shards)),
        own_head=head and bool(head_layers(shards)),
    )
    return _Layout(shards, facts).build()


def require_sliceable(shards: Sequence[GgufHeader]) -> None:
    """Raise TwdError if a model cannot be cut into slices at all."""
    header = shards[0]
    known = read_facts(header.metadata)
    if known is not None:
        own = f"a slice of layers {known.first}-{known.end} itself"
        raise TwdError(FailureCode.BAD_REQUEST, f"{header.path.name} is {own}; name the whole model")
    count = header.number(f"{header.text('general.architecture')}.block_count")
    reason = can_slice(header) or next(filter(None, (odd_tensor(t.name, count) for t in _all(shards))), "")
    if not reason and not any(t.name == "token_embd.weight" and len(t.shape) == _MATRIX for t in _all(shards)):
        reason = f"it holds no embedding matrix; {INSTEAD}"
    if reason:
        raise TwdError(FailureCode.UNSUPPORTED, f"{header.path.name} cannot be sliced: {reason}")


def read_facts(metadata: dict[str, Scalar | ArrayField]) -> SliceFacts | None:
    """The slice facts in a file's metadata; None for a whole model."""
    values = {name: metadata.get(_PREFIX + name) for name in SliceFacts.__dataclass_fields__}
    values["own_head"] = metadata.get(f"{_PREFIX}own_head", False)
    if metadata.get(_PREFIX + "format") != FORMAT or any(isinstance(x, ArrayField | None) for x in values.values()):
        return None
    return SliceFacts(**values)  # type: ignore[arg-type]


def facts_of(info: GgufInfo) -> SliceFacts:
    """The slice facts of any file. A whole model counts as a slice of all its layers."""
    return read_facts(info.metadata) or SliceFacts(
        model="",
        first=0,
        end=info.layers,
        layers=info.layers,
        head=True,
        tail=False,
        floats=bool(floats(info.tensors)),
        blocks=block_kinds(info.tensors),
        own_head=info.head_layers > 0,
    )


def head_layers(shards: Sequence[GgufHeader]) -> list[int]:
    """The layers of the model's own head, if such heads are used and the file holds them; usually none."""
    header, names = shards[0], {tensor.name for tensor in _all(shards)}
    architecture, count = header.text("general.architecture"), layers_of(header)
    own = header.number(f"{architecture}.{HEAD_LAYERS}") if architecture in OWN_HEADS - FLAT else 0
    layers = list(range(count, count + own))
    return layers if all(f"blk.{layer}.{HEAD_PROJECTION}" in names for layer in layers) else []


def _require_range(layers: int, first: int, end: int, head: bool) -> None:
    problem = ""
    if first < 0 or max(first, end) > layers:
        problem = f"this model has {layers} layers, so {first}-{end} is out of range"
    elif first > end or (first == end and not (head and first == layers)):
        problem = f"layers {first}-{end} are none; a slice without layers is {layers}-{layers} with the head"
    elif head and end != layers:
        problem = f"the head follows layer {layers}, so the slice that has it must end there, not at {end}"
    if problem:
        raise TwdError(FailureCode.BAD_REQUEST, problem)


def _tail(shards: Sequence[GgufHeader], first: int, end: int, head: bool) -> list[int]:
    """The layers of the model after which layers of zeros at the end of a slice are shaped; usually none.

    They are needed if llama.cpp cannot load the slice's layers alone. Otherwise one is added only if the last layer is
    small: it costs some memory and time, but catching a small layer's output with a callback costs more.
    """
    header = shards[0]
    needed = tail_layers(header, first, end, cuts_of(header).multiple)
    if needed or head or not RULES[header.text("general.architecture")].layer_inputs:
        return needed
    size = sum(tensor.size_bytes for tensor in _all(shards) if layer_of(tensor.name) == end - 1)
    return [end - 1] if size <= _SMALL_LAYER_BYTES else []


def _all(shards: Sequence[GgufHeader]) -> Iterator[TensorInfo]:
    return (tensor for header in shards for tensor in header.tensors)


class _Layout:
    """Builds the layout of one slice."""

    def __init__(self, shards: Sequence[GgufHeader], facts: SliceFacts) -> None:
        header = shards[0]
        self._header = header
        self._facts = facts
        self._architecture = header.text("general.architecture")
        self._rule: SliceRule = RULES[self._architecture]
        self._like = [*range(facts.first, facts.end), *_tail(shards, facts.first, facts.end, facts.head)]
        self._own = head_layers(shards) if facts.own_head else []
        self._sources = {
            tensor.name: (tensor, FileRange(shard.path, shard.data_offset + tensor.offset, tensor.size_bytes))
            for shard in shards
            for tensor in shard.tensors
        }
        embedding, _ = self._sources["token_embd.weight"]
        self._width, self._vocabulary = embedding.shape[0], embedding.shape[1]
        self._layout = SliceLayout(facts, header.number("general.alignment", 32))

    def build(self) -> SliceLayout:
        reason = cuts_of(self._header).refusal(self._facts.first, len(self._like))
        if reason and not self._facts.whole:
            raise TwdError(FailureCode.UNSUPPORTED, reason)
        gone = self._gone()
        self._add_fields(gone)
        for name, (tensor, source) in self._sources.items():
            if layer_of(name) is None and name not in gone and not name.startswith(("token_embd.", "output.")):
                unused = name in self._rule.first_only and self._facts.first > 0
                self._keep(name, tensor, None if unused else source)
        self._add_vocabulary()
        for number, layer in enumerate(self._like):
            self._add_layer(number, layer, empty=number >= self._facts.end - self._facts.first)
        for number, layer in enumerate(self._own, len(self._like)):
            self._add_layer(number, layer, empty=False)
        return self._layout

    def _add_fields(self, gone: frozenset[str]) -> None:
        written = self._rewritten()
        for key, (start, end) in self._header.spans.items():
            dropped = key in written or key in gone or key.startswith(("split.", _PREFIX))
            if not dropped and (self._facts.ends or not key.startswith("tokenizer.")):
                self._layout.fields.append(FileRange(self._header.path, start, end - start))
        self._layout.fields += [encode_field(key, *value) for key, value in written.items()]

    def _rewritten(self) -> _Fields:
        """The metadata fields that differ from those of the source."""
        number, yes_no, text = GGUFValueType.UINT32, GGUFValueType.BOOL, GGUFValueType.STRING
        facts, prefix = self._facts, f"{self._architecture}."
        written: _Fields = {
            prefix + "block_count": (number, len(self._like) + len(self._own)),
            prefix + "vocab_size": (number, self._vocabulary if facts.ends else _STAND_IN_ROWS),
            _PREFIX + "format": (number, FORMAT),
            _PREFIX + "model": (text, facts.model),
            _PREFIX + "blocks": (text, facts.blocks),
        }
        written |= {_PREFIX + name: (number, getattr(facts, name)) for name in ("first", "end", "layers")}
        written |= {_PREFIX + name: (yes_no, getattr(facts, name)) for name in ("head", "tail", "floats", "own_head")}
        if prefix + HEAD_LAYERS in self._header.metadata:
            written[prefix + HEAD_LAYERS] = (number, len(self._own))
        if not facts.ends:
            written["tokenizer.ggml.model"] = (text, "no_vocab")
        for name in PER_LAYER:
            values = self._header.array(prefix + name)
            if values:
                kind = self._header.metadata[prefix + name].kind  # type: ignore[union-attr]
                written[prefix + name] = (kind, self._each(values))
        return written | self._by_rule()

    def _each(self, values: Sequence[Scalar], head: Scalar | None = None) -> list[Scalar]:
        """The values of the slice's layers. `head`: the value of the layers of the model's own head if `values` has
        none; without it, they get none."""
        told = [values[layer] for layer in self._own if layer < len(values)]
        if head is not None:
            told = told or [head] * len(self._own)
        return [*(values[layer] for layer in self._like), *told]

    def _by_rule(self) -> _Fields:
        rule, prefix = self._rule, f"{self._architecture}."
        extra: _Fields = {}
        windows, recurrent = window_layers(self._header), recurrent_layers(self._header)
        if any(windows):
            told = self._header.array(prefix + WINDOWS) or windows
            extra[prefix + WINDOWS] = (GGUFValueType.UINT32, self._each([int(one) for one in told], 0))
        if rule.recurrent == "period":
            extra[prefix + "attention.recurrent_layers"] = (GGUFValueType.BOOL, self._each(recurrent, False))
        indexers = indexers_of(self._header)
        if indexers:
            extra[prefix + INDEXERS] = (GGUFValueType.UINT32, self._each(indexers))
        scaled = rule.default_scale or prefix + _SCALE in self._header.metadata
        if scaled and self._facts.first > 0:
            extra[prefix + _SCALE] = (GGUFValueType.FLOAT32, 1.0)
        for name in _LEADING:
            lead = self._header.number(prefix + name)
            if lead:
                extra[prefix + name] = (GGUFValueType.UINT32, sum(layer < lead for layer in self._like))
        if rule.residual_depth and prefix + _RESIDUAL not in self._header.metadata:
            depth = np.float32(rule.residual_depth) / np.sqrt(np.float32(self._facts.layers))
            extra[prefix + _RESIDUAL] = (GGUFValueType.FLOAT32, float(depth))
        if rule.sectioned and self._facts.first > 0 and prefix + SECTIONS not in self._header.metadata:
            half = self._rotated() // 2
            extra[prefix + SECTIONS] = (GGUFValueType.INT32, [half - half // 2, half // 2, 0, 0])
        if prefix + _DEEPSTACK in self._header.metadata:
            extra[prefix + _DEEPSTACK] = (GGUFValueType.UINT32, 0)
        return extra

    def _rotated(self) -> int:
        """How many numbers of each head are rotated by their position."""
        number, prefix = self._header.number, f"{self._architecture}."
        whole = number(prefix + "attention.key_length") or self._width // number(prefix + "attention.head_count", 1)
        return number(prefix + "rope.dimension_count") or whole

    def _gone(self) -> frozenset[str]:
        """The tensors and metadata fields that this slice must not have."""
        dropped = self._rule.dropped if self._facts.first > 0 else ()
        return frozenset(f"{self._architecture}{name}" if name.startswith(".") else name for name in dropped)

    def _add_vocabulary(self) -> None:
        """Add the embedding and the output matrix: each unchanged, as zeros with as many rows, or as a few rows of
        zeros.

        Without an output matrix, llama.cpp uses the embedding and may copy it to another layout. Zeros of a type that
        needs no copy cost less.
        """
        facts, tied = self._facts, "output.weight" not in self._sources
        if not facts.ends:
            self._zeros("token_embd.weight", _STAND_IN_ROWS)
            self._stand_in(_STAND_IN_ROWS)
            return
        if facts.first == 0 or tied or self._head_reads_embedding():
            self._keep("token_embd.weight", *self._sources["token_embd.weight"])
        else:
            self._zeros("token_embd.weight", self._vocabulary)
        if facts.head:
            for name, (tensor, source) in self._sources.items():
                if name.startswith("output."):
                    self._keep(name, tensor, source)
        else:
            self._stand_in(self._vocabulary)

    def _head_reads_embedding(self) -> bool:
        return any(f"blk.{layer}.{HEAD_EMBEDDING}" not in self._sources for layer in self._own)

    def _stand_in(self, rows: int) -> None:
        """Add zeros in place of the output matrix, and of its bias."""
        if not self._rule.tied:
            self._zeros("output.weight", rows)
        if "output.bias" in self._sources:
            kind = GGMLQuantizationType.F32
            self._layout.tensors.append(SliceTensor("output.bias", (rows,), kind, 4 * rows, None))

    def _add_layer(self, number: int, layer: int, *, empty: bool) -> None:
        for name, (tensor, source) in self._sources.items():
            if layer_of(name) == layer:
                rest = name.split(".", 2)[2]
                zero = empty and rest not in self._rule.alive
                self._keep(f"blk.{number}.{rest}", tensor, None if zero else source)

    def _keep(self, name: str, tensor: TensorInfo, source: FileRange | None) -> None:
        self._layout.tensors.append(SliceTensor(name, tensor.shape, tensor.kind, tensor.size_bytes, source))

    def _zeros(self, name: str, rows: int) -> None:
        kind = GGMLQuantizationType.F16 if self._width % _BLOCK else GGMLQuantizationType.Q4_1
        block, size = GGML_QUANT_SIZES[kind]
        total = self._width * rows // block * size
        self._layout.tensors.append(SliceTensor(name, (self._width, rows), kind, total, None))
