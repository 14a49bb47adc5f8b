"""Trained heads: which architectures have one in their own file, and what files hold one for another model."""

from collections.abc import Sequence
from typing import Final

from twd.gguf_tools.block_head import BLOCK, block_problem, table_problem
from twd.gguf_tools.header import ArrayField, GgufHeader, TensorInfo
from twd.gguf_tools.inspect import GgufInfo, inspect, layer_of
from twd.gguf_tools.shared_head import SHARED, shared_problem
from twd.gguf_tools.slice_kinds import HEAD_EMBEDDING, HEAD_LAYERS, HEAD_PROJECTION, SECTIONS
from twd.gguf_tools.slice_table import RULES

OWN_HEADS: Final = frozenset(
    {
        "bailingmoe3",
        "cohere2moe",
        "deepseek2",
        "deepseek32",
        "glm-dsa",
        "glm4moe",
        "hy_v3",
        "mimo2",
        "qwen35",
        "qwen35moe",
        "qwen3next",
    }
)
"""Architectures whose head (multi-token prediction) was tried. llama.cpp ends the process where it cannot run one."""
CHAINED: Final = frozenset({"hy_v3", "mimo2"})
"""Of these, a file may have several heads: the first guesses the next token, the second the one after it, and so on."""
EAGLE: Final = "eagle3"
HEAD_FILES: Final = frozenset({EAGLE, BLOCK, SHARED})
"""Architectures of such files."""
GIVE_INPUTS: Final = frozenset({"deepseek4", "minimax-01", "muse-glimmer"}) | {
    name for name, rule in RULES.items() if rule.layer_inputs
}
"""Architectures of which llama.cpp gives out what goes into layers."""
_LAYERS: Final = 3
WIDTHS: Final = {EAGLE: "target_hidden_size", BLOCK: "embedding_length"}
"""The fields with the width of the model that a head of these kinds is for."""
_FUSED: Final = frozenset({"mimo2"})
FLAT: Final = frozenset({"glm4moe"})
"""Of these, the head cannot be where states come in: there llama.cpp needs sections of positions, which its head does
not take."""
_OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"


def own_head_problem(info: GgufInfo) -> str:
    """Why the head in a model's own file is not used; empty if it is. llama.cpp would end the process."""
    architecture, count = info.architecture, info.head_layers
    if architecture not in OWN_HEADS:
        return f"heads of {architecture} models were not tried"
    if count > 1 and architecture not in CHAINED:
        return f"llama.cpp computes one head of {architecture} models, and this file has {count}"
    if architecture in FLAT and isinstance(info.metadata.get(f"{architecture}.{SECTIONS}"), ArrayField):
        return f"llama.cpp computes no head of {architecture} models whose positions have sections"
    names, layers = {tensor.name for tensor in info.tensors}, range(info.layers, info.layers + count)
    if any(f"blk.{layer}.{HEAD_PROJECTION}" not in names for layer in layers):
        return "the file tells of a head, but holds none: its tensors are in a file of their own"
    fused = architecture not in _FUSED or all(f"blk.{layer}.attn_qkv.weight" in names for layer in layers)
    return "" if fused else f"llama.cpp computes heads of {architecture} models only with one matrix for Q, K and V"


def head_weights(info: GgufInfo) -> int:
    """The bytes of the layers of a model's own head."""
    return sum(tensor.size_bytes for tensor in _head_tensors(info))


def apart_bytes(info: GgufInfo) -> int:
    """The bytes of the embedding, if the head would need it a second time on a machine without the first layers."""
    sizes = {tensor.name: tensor.size_bytes for tensor in info.tensors}
    tied = _OUTPUT not in sizes
    has_its_own = any(tensor.name.endswith(HEAD_EMBEDDING) for tensor in _head_tensors(info))
    return 0 if tied or has_its_own else sizes.get(_EMBEDDING, 0)


def head_cache_bytes(info: GgufInfo, tokens: int) -> int:
    """The bytes of the KV cells of a model's own head for so many tokens."""
    return info.kv_bytes_per_token() // max(info.kv_layers, 1) * info.head_layers * tokens


def _head_tensors(info: GgufInfo) -> list[TensorInfo]:
    layers = ((layer_of(tensor.name), tensor) for tensor in info.tensors)
    return [tensor for layer, tensor in layers if layer is not None and layer >= info.layers]


def layers_read(header: GgufHeader) -> list[int]:
    """The layers of the target whose inputs a head reads."""
    return [int(one) for one in header.array(f"{header.text('general.architecture')}.target_layers")]


def pool_problem(header: GgufHeader, engine: str) -> str:
    """Why a trained head does not guess for a model that lies on several machines."""
    if holds_layers_alone(header):
        return f"{header.path.name} guesses on one machine only; over several, the head must be in the model's own file"
    if header.text("general.architecture") == SHARED:
        return f"{header.path.name} reads the KV cells of the model's last layers, so it guesses on one machine only"
    *some, last = map(str, layers_read(header) or [0])
    reads = f"{header.path.name} reads the inputs of layers {', '.join(some)} and {last}"
    if engine == "ring":
        cost = f"would make what travels with each token up to {len(some) + 2} times as large"
        return f"{reads}; on a ring they lie on other machines than the output, and to take them along {cost}"
    return f"{reads}; over RPC each of them would be a round trip more for every pass"


def head_problem(header: GgufHeader, target: GgufInfo) -> str:
    """Why this file is no head for a model; empty if it fits. llama.cpp would end the process if it did not."""
    architecture, name = header.text("general.architecture"), header.path.name
    if holds_layers_alone(header):
        return _split_problem(header, target)
    if architecture == SHARED:
        return shared_problem(header, target)
    if architecture not in (EAGLE, BLOCK):
        return f"{name} is a file of architecture {architecture or 'none'}, not of a trained head"
    layers, width = layers_read(header), header.number(f"{architecture}.{WIDTHS[architecture]}")
    foreign = f"{name} is a head of another model"
    if width != target.embedding:
        return f"{foreign}: that has a width of {width}, this one of {target.embedding}"
    if target.architecture not in GIVE_INPUTS:
        return f"llama.cpp gives out no layer inputs of {target.architecture} models, which {name} would read"
    if not layers or (architecture == EAGLE and len(layers) != _LAYERS) or not _among(layers, target, architecture):
        return f"{foreign}: it reads layers {layers}, and this one has {target.layers}"
    return table_problem(header, target.vocabulary) or block_problem(header, target.vocabulary)


def holds_layers_alone(header: GgufHeader) -> bool:
    """Whether a file holds the layers of a head (multi-token prediction) without the model's other layers."""
    own = header.number(f"{header.text('general.architecture')}.{HEAD_LAYERS}")
    return own > 0 and not any(layer_of(tensor.name) == 0 for tensor in header.tensors)


def _split_problem(header: GgufHeader, target: GgufInfo) -> str:
    """The same for a file with the layers of the model's own head."""
    foreign = f"{header.path.name} is a head of another model"
    info = inspect(header.path)
    if info.architecture != target.architecture:
        return f"{foreign}: that is of architecture {info.architecture}, this one of {target.architecture}"
    if (info.embedding, info.layers) != (target.embedding, target.layers):
        sizes = f"that has {info.layers} layers and a width of {info.embedding}"
        return f"{foreign}: {sizes}, this one {target.layers} and {target.embedding}"
    return own_head_problem(info)


def _among(layers: Sequence[int], target: GgufInfo, architecture: str) -> bool:
    rule = RULES.get(target.architecture)
    with_last = architecture == EAGLE and rule is not None and rule.layer_inputs
    last = target.layers if with_last else target.layers - 1
    return all(0 <= one <= last for one in layers)
