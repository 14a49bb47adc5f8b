"""Trained heads: which architectures have one in their own file, and what files hold one for another model."""

from typing import Final

from twd.gguf_tools.header import GgufHeader
from twd.gguf_tools.inspect import GgufInfo
from twd.gguf_tools.slice_table import RULES

OWN_HEADS: Final = frozenset(
    {
        "bailingmoe3",
        "cohere2moe",
        "deepseek2",
        "deepseek32",
        "glm-dsa",
        "hy_v3",
        "qwen35",
        "qwen35moe",
        "qwen3next",
    }
)
"""Architectures whose head (multi-token prediction) was tried. llama.cpp ends the process where it cannot run one."""
EAGLE: Final = "eagle3"
HEAD_FILES: Final = frozenset({EAGLE, "dflash", "gemma4-assistant"})
"""Architectures of such files. Only EAGLE-3 is used so far."""
_LAYERS: Final = 3


def layers_read(header: GgufHeader) -> list[int]:
    """The layers of the target whose inputs an EAGLE-3 head reads."""
    return [int(one) for one in header.array(f"{EAGLE}.target_layers")]


def head_problem(header: GgufHeader, target: GgufInfo) -> str:
    """Why this file is no head for a model; empty if it fits. llama.cpp would end the process if it did not."""
    architecture, name = header.text("general.architecture"), header.path.name
    if architecture != EAGLE:
        return f"{name} is a file of architecture {architecture or 'none'}, not an EAGLE-3 head"
    layers, width = layers_read(header), header.number(f"{EAGLE}.target_hidden_size")
    foreign = f"{name} is a head of another model"
    if width != target.embedding:
        return f"{foreign}: that has a width of {width}, this one of {target.embedding}"
    rule = RULES.get(target.architecture)
    if rule is None or not rule.layer_inputs:
        return f"llama.cpp gives out no layer inputs of {target.architecture} models, which {name} would read"
    if len(layers) != _LAYERS or not all(0 <= one <= target.layers for one in layers):
        return f"{foreign}: it reads layers {layers}, and this one has {target.layers}"
    return ""
