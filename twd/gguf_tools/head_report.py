"""What a model's own head costs, and what the file of a trained head holds: for `twd inspect`, `plan` and `doctor`."""

from typing import Final

import msgspec

from twd.gguf_tools.block_head import block_facts
from twd.gguf_tools.head_file import (
    HEAD_FILES,
    WIDTHS,
    head_cache_bytes,
    head_weights,
    holds_layers_alone,
    layers_read,
    own_head_problem,
)
from twd.gguf_tools.header import GgufHeader
from twd.gguf_tools.inspect import GgufInfo
from twd.gguf_tools.shared_head import SHARED, shared_width
from twd.gguf_tools.step_reads import step_reads
from twd.kit.wording import count

_EAGLE: Final = "EAGLE-3"


class OwnHeadFacts(msgspec.Struct, frozen=True):
    """The head (multi-token prediction) in a model's own file."""

    layers: int
    size_bytes: int
    cache_bytes_per_token: int
    share: float
    """What one guess reads, as a share of what a pass of one token reads."""
    problem: str = ""
    """Why it is not used; empty if it is."""


def own_head_facts(info: GgufInfo) -> OwnHeadFacts | None:
    """The facts of a model's own head; None if its file has none."""
    if not info.head_layers:
        return None
    reads, weights = step_reads(info), head_weights(info)
    token_bytes = reads.layer_bytes * sum(share for _, share in reads.kinds) + reads.head_bytes
    return OwnHeadFacts(
        layers=info.head_layers,
        size_bytes=weights,
        cache_bytes_per_token=head_cache_bytes(info, 1),
        share=round((weights + reads.head_bytes) / max(1.0, token_bytes), 3),
        problem=own_head_problem(info),
    )


def own_head_words(head: OwnHeadFacts) -> str:
    """What a model's own head is and costs."""
    size = f"{head.size_bytes / 2**20:,.4g} MiB and {head.cache_bytes_per_token / 1024:,.4g} KiB of cache for a token"
    if head.problem:
        return f"{count(head.layers, 'layer')} of its own, not used: {head.problem}"
    return f"{count(head.layers, 'layer')} of its own, {size}; a guess reads {head.share:.0%} of what a token reads"


def head_file_words(header: GgufHeader) -> str:
    """What the file of a trained head holds; empty if the file is no such head."""
    architecture = header.text("general.architecture")
    if holds_layers_alone(header):
        return f"the layers of the head of a {architecture} model, without the model"
    if architecture not in HEAD_FILES:
        return ""
    if architecture == SHARED:
        model = f"a Gemma 4 model of width {shared_width(header)}"
        return f"a trained head (assistant) for {model}: it reads the KV cells of its last layers"
    block, layers = block_facts(header), ", ".join(map(str, layers_read(header)))
    kind = _EAGLE if block is None else f"{block.kind}, up to {count(block.most, 'token')} at once"
    model = f"a model of width {header.number(f'{architecture}.{WIDTHS[architecture]}')}"
    return f"a trained head ({kind}) for {model}: it reads the inputs of layers {layers}"
