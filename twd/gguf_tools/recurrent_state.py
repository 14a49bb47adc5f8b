"""Which layers of a model keep a recurrent state instead of KV cells for each token, and how large it is."""

from typing import Final

from twd.gguf_tools.header import GgufHeader
from twd.gguf_tools.slice_kinds import layers_of, recurrent_layers
from twd.gguf_tools.slice_table import RULES

_ALL: Final = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_BOTH: Final = frozenset({"falcon-h1"})
"""Each layer has attention and a recurrent state."""
_FLOAT_BYTES: Final = 4
_USUAL_KERNEL: Final = 4


def recurrent_count(header: GgufHeader) -> int:
    """How many layers keep a recurrent state."""
    architecture = header.text("general.architecture")
    if architecture in _ALL | _BOTH:
        return layers_of(header)
    return sum(recurrent_layers(header)) if architecture in RULES else 0


def attention_count(header: GgufHeader) -> int:
    """How many layers keep KV cells."""
    both = header.text("general.architecture") in _BOTH
    return layers_of(header) - (0 if both else recurrent_count(header))


def layer_state_bytes(header: GgufHeader) -> int:
    """The bytes that one recurrent layer keeps for one session; 0 if the file tells of none."""
    prefix = header.text("general.architecture")

    def number(name: str, default: int = 0) -> int:
        return header.number(f"{prefix}.{name}", default)

    width, kernel = number("embedding_length"), number("ssm.conv_kernel")
    if number("wkv.head_size"):
        return _FLOAT_BYTES * width * (number("token_shift_count", 2) + number("wkv.head_size"))
    if number("shortconv.l_cache"):
        return _FLOAT_BYTES * width * (number("shortconv.l_cache") - 1)
    if number("kda.head_dim"):
        inner = number("attention.head_count") * number("kda.head_dim")
        return _FLOAT_BYTES * inner * (3 * ((kernel or _USUAL_KERNEL) - 1) + number("kda.head_dim"))
    inner, state = number("ssm.inner_size"), number("ssm.state_size")
    rolling = max(kernel - 1, 0) * (inner + 2 * number("ssm.group_count") * state)
    return _FLOAT_BYTES * (rolling + state * inner)
