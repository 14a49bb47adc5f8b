"""Reads the facts of a model from its GGUF files: size, shape, quantization, and how much memory it will take."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twd.gguf_tools.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from twd.gguf_tools.header import ArrayField, BrokenGguf, GgufHeader, Scalar, TensorInfo, read_header
from twd.gguf_tools.recurrent_state import attention_count, layer_state_bytes, recurrent_count

_LAYER = re.compile(r"^blk\.(\d+)\.")
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
SHARDS_MAX = 1024
_MATRIX = 2
_LAYERS_MAX = 4096
_COUNT_MAX = 2**31 - 1
_EXPERTS = ":experts"
_FLOATS = frozenset({"F32", "F16", "BF16"})
_NOT_MULTIPLIED = re.compile(
    r"^blk\.\d+\.(attn_[qk]_norm|ssm_(a|d|norm|conv1d(_[qkv])?)|shortconv\.conv|ple_conv1d|"
    r"time_mix_(first|decay|lerp_\w+|[wav]0|k_k|k_a|r_k))(\.weight)?$"
)
"""Tensors of two dimensions that llama.cpp scans, convolves, adds or scales with, in any number of rows alike."""


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """The facts of a model, summed over its shards. Sizes in bytes are those of the stored weights."""

    path: Path
    shards: list[Path]
    name: str
    architecture: str
    quantization: str
    parameters: int
    size_bytes: int
    layers: int
    embedding: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    context_length: int
    vocabulary: int
    tokenizer: str
    chat_template: str
    layer_bytes: list[int]
    other_bytes: int
    tensors: list[TensorInfo]
    metadata: dict[str, Scalar | ArrayField]
    head_layers: int = 0
    """How many layers of a multi-token-prediction head follow the `layers`."""
    kv_layers: int = 0
    """How many layers keep KV cells."""
    state_bytes: int = 0
    """The recurrent state of one session, over all layers, in bytes."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.layer_bytes) + self.other_bytes

    def kv_bytes_per_token(self, type_k: str = "f16", type_v: str = "f16") -> int:
        """The bytes of KV cache for one token, over all layers."""
        keys = _row_bytes(type_k, self.kv_heads * self.key_length)
        values = _row_bytes(type_v, self.kv_heads * self.value_length)
        return self.kv_layers * (keys + values)


def inspect(path: Path) -> GgufInfo:
    """Read the headers of all shards; raises BrokenGguf for many files that llama.cpp could not load."""
    shards = shards_of(path)
    headers = [read_header(shard) for shard in shards]
    first = headers[0]
    architecture = first.text("general.architecture")
    if not architecture:
        raise BrokenGguf(path, "names no architecture; it is not a language model")
    if first.text("general.type", "model") != "model":
        raise BrokenGguf(path, f"holds a {first.text('general.type')}, not a model")
    tensors = [tensor for header in headers for tensor in header.tensors]
    if not tensors:
        raise BrokenGguf(path, "holds no weights; name the whole model")
    return _info(path, shards, headers, architecture, tensors)


def _count(path: Path, header: GgufHeader, architecture: str, name: str, default: int = 0) -> int:
    """A number of the architecture, if it can be one; raises BrokenGguf otherwise."""
    found = header.number(f"{architecture}.{name}", default)
    if not 0 <= found <= _COUNT_MAX:
        raise BrokenGguf(path, f"corrupt header: {architecture}.{name} is {found}; fetch it again")
    return found


def _info(
    path: Path, shards: list[Path], headers: list[GgufHeader], architecture: str, tensors: list[TensorInfo]
) -> GgufInfo:
    first = headers[0]
    count = partial(_count, path, first, architecture)
    layers = first.number(f"{architecture}.block_count")
    if not 0 <= layers <= max(len(tensors), _layers_named(tensors)):
        raise BrokenGguf(path, f"claims {layers} layers but holds {len(tensors)} tensors; fetch it again")
    head_layers = count("nextn_predict_layers")
    layers = max(layers - head_layers, 0)
    heads = count("attention.head_count")
    embedding = count("embedding_length")
    head_size = embedding // heads if heads else 0
    layer_bytes, other_bytes = _bytes_by_layer(tensors, layers)
    return GgufInfo(
        path=path,
        shards=shards,
        name=first.text("general.name", path.stem),
        architecture=architecture,
        quantization=quantization(first, tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        size_bytes=sum(header.file_bytes for header in headers),
        layers=layers,
        embedding=embedding,
        heads=heads,
        kv_heads=count("attention.head_count_kv", heads),
        key_length=count("attention.key_length", head_size),
        value_length=count("attention.value_length", head_size),
        context_length=count("context_length"),
        vocabulary=_vocabulary(first) or count("vocab_size"),
        tokenizer=first.text("tokenizer.ggml.model"),
        chat_template=first.text("tokenizer.chat_template"),
        layer_bytes=layer_bytes,
        other_bytes=other_bytes,
        tensors=tensors,
        metadata=first.metadata,
        head_layers=head_layers,
        kv_layers=attention_count(first) if layers else 0,
        state_bytes=recurrent_count(first) * layer_state_bytes(first) if layers else 0,
    )


def _layers_named(tensors: list[TensorInfo]) -> int:
    """How many layers there must be by the names of the tensors. A head without its model has only the last of them."""
    named = max((layer for tensor in tensors if (layer := layer_of(tensor.name)) is not None), default=-1) + 1
    return named if named <= _LAYERS_MAX else 0


def shards_of(path: Path) -> list[Path]:
    """All files of a model, in order; raises BrokenGguf if one is missing or the path is not the first."""
    match = _SHARD.match(path.name)
    count = int(match["count"]) if match is not None else 0
    if count > SHARDS_MAX:
        raise BrokenGguf(path, f"claims to be one of {count} parts, more than {SHARDS_MAX}; rename it")
    names = shard_names(path.name)
    if not names:
        return [path]
    if path.name != names[0]:
        raise BrokenGguf(path, f"is a later part of a model in {count} parts; name the first one, {names[0]}")
    shards = [path.with_name(name) for name in names]
    missing = [shard.name for shard in shards[1:] if not shard.exists()]
    if missing:
        raise BrokenGguf(path, f"parts of this model are missing: {', '.join(missing[:4])}; fetch them")
    return shards


def shard_names(name: str) -> list[str]:
    """The names of all files of a split model, in order, from that of one of them; empty for a model in one file."""
    match = _SHARD.match(name)
    count = min(int(match["count"]), SHARDS_MAX) if match is not None else 0
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)] if match else []


def quantization(header: GgufHeader, tensors: list[TensorInfo]) -> str:
    """The quantization that the file states; else the type of most of its weights."""
    code = header.number("general.file_type", -1)
    try:
        return str(LlamaFileType(code).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return str(_commonest(tensors).name)


def _commonest(tensors: list[TensorInfo]) -> GGMLQuantizationType:
    weights: Counter[GGMLQuantizationType] = Counter()
    for tensor in tensors:
        if len(tensor.shape) >= _MATRIX:
            weights[tensor.kind] += tensor.elements
    return weights.most_common(1)[0][0] if weights else GGMLQuantizationType.F32


def _bytes_by_layer(tensors: list[TensorInfo], layers: int) -> tuple[list[int], int]:
    by_layer, other = [0] * layers, 0
    for tensor in tensors:
        layer = layer_of(tensor.name)
        if layer is not None and layer < layers:
            by_layer[layer] += tensor.size_bytes
        else:
            other += tensor.size_bytes
    return by_layer, other


def floats(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """The matrices with float types (F32, F16, BF16)."""
    return [tensor for tensor in _matrices(tensors) if tensor.kind.name in _FLOATS]


def block_kinds(tensors: Iterable[TensorInfo]) -> str:
    """The types of the quantized matrices, separated by spaces; `:experts` marks matrices of several experts."""
    blocks = [tensor for tensor in _matrices(tensors) if tensor.kind.name not in _FLOATS]
    return " ".join(sorted({tensor.kind.name + (_EXPERTS if len(tensor.shape) > _MATRIX else "") for tensor in blocks}))


def _matrices(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """The matrices that passes multiply by. The embedding counts only if it is also the output matrix."""
    wide = (tensor for tensor in tensors if len(tensor.shape) >= _MATRIX)
    found = {tensor.name: tensor for tensor in wide if not _NOT_MULTIPLIED.match(tensor.name)}
    if "output.weight" in found:
        found.pop("token_embd.weight", None)
    return list(found.values())


def layer_of(name: str) -> int | None:
    """The layer number in a tensor's name; None if it belongs to no layer."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def _vocabulary(header: GgufHeader) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return tokens.length if isinstance(tokens, ArrayField) else 0


def _row_bytes(kind: str, elements: int) -> int:
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
    return int(-(-elements // block) * size)
