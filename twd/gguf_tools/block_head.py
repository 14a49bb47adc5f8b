"""Trained heads that guess a block of tokens at once (architecture `dflash`): their kinds, and what their files hold.

All three kinds read the inputs of some of the target's layers, and compute a block of masks in one pass. DFlash takes
each token by itself. DSpark adds to each what the token before it makes likely (a Markov matrix of low rank), and tells
how sure it is. DFlash 2 scores pairs of candidates of neighbouring places.
"""

import enum
from dataclasses import dataclass
from typing import Final

import numpy as np

from twd.gguf_tools.constants import GGMLQuantizationType
from twd.gguf_tools.header import GgufHeader, TensorInfo

BLOCK: Final = "dflash"
MARKOV_FROM, MARKOV_TO, MARKOV_SCALE = "markov_w1.weight", "markov_w2.weight", "markov_w2.scale"
CONFIDENCE: Final = "conf_proj.weight"
TABLE: Final = "d2t"
"""The tensor with the token of each row of a head's own output matrix."""
_SELECTOR, _OUTPUT = "selector_hidden.weight", "output.weight"
_STREAMS: Final = "hyper_connection.count"
_OF_STREAMS: Final = ("attention.output_group_count", "attention.sliding_window")
"""What a head with layers as those of DeepSeek V4 must tell."""
_BLOCK_SIZE: Final = 16
_LONGEST: Final = 32
"""DSpark and DFlash 2 add nodes for each place of a block to llama.cpp's graph, which has room for so many places."""
_TOP_K: Final = "selector_top_k"


class BlockKind(enum.StrEnum):
    """How a head makes a block of tokens."""

    DFLASH = "DFlash"
    DSPARK = "DSpark"
    DFLASH_2 = "DFlash 2"


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """A head that guesses a block at once: the layers whose inputs it reads, the size of a block with the last token
    before it, and the token that stands for those to guess."""

    layers: list[int]
    size: int
    mask: int
    kind: BlockKind = BlockKind.DFLASH
    first: int = 1
    """The row of a block with the first guess. 0: that of the last token itself."""
    confident: bool = False
    """It tells how sure it is of each token."""
    candidates: int = 0
    """DFlash 2: how many candidates each place has."""

    @property
    def most(self) -> int:
        """How many tokens it guesses at most."""
        return self.size - self.first


def block_facts(header: GgufHeader) -> BlockFacts | None:
    """The facts of such a head; None for any other file."""
    if header.text("general.architecture") != BLOCK:
        return None
    kind, names = _kind(header), _names(header)
    from_anchor = kind is BlockKind.DSPARK and header.metadata.get(f"{BLOCK}.sample_from_anchor", True) is True
    return BlockFacts(
        layers=[int(one) for one in header.array(f"{BLOCK}.target_layers")],
        size=header.number(f"{BLOCK}.block_size", _BLOCK_SIZE),
        mask=header.number("tokenizer.ggml.mask_token_id", -1),
        kind=kind,
        first=0 if from_anchor else 1,
        confident=kind is BlockKind.DSPARK and CONFIDENCE in names,
        candidates=header.number(f"{BLOCK}.{_TOP_K}"),
    )


def block_problem(header: GgufHeader, vocabulary: int) -> str:
    """Why such a head does not guess for a model with so many tokens; empty if it does. llama.cpp would end the
    process."""
    facts, name = block_facts(header), header.path.name
    if facts is None:
        return ""
    links = tensor_named(header, MARKOV_FROM)
    if links is not None and links.shape[-1] != vocabulary:
        sizes = f"that knows {links.shape[-1]} tokens, this one {vocabulary}"
        return f"{name} is a head of another model: {sizes}"
    if header.number(f"{BLOCK}.{_STREAMS}") > 0:
        for field in _OF_STREAMS:
            if header.number(f"{BLOCK}.{field}") < 1:
                return f"{name} has layers as those of DeepSeek V4, but does not tell their {field}"
    if not 0 <= facts.mask < vocabulary:
        return f"{name} names no mask token of this model"
    if facts.size < 2 or facts.most < 1:
        return f"{name} tells of a block of {facts.size} tokens"
    return "" if facts.kind is BlockKind.DFLASH else _added_problem(header, facts)


def table_problem(header: GgufHeader, vocabulary: int) -> str:
    """Why the tokens of a head's own output matrix cannot be those of a model; empty if they can."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    table, name = tensors.get(TABLE), header.path.name
    if table is None:
        return ""
    if table.kind is not GGMLQuantizationType.I64 or _OUTPUT not in tensors:
        return f"{name} has a table of tokens (`{TABLE}`) that fits no output matrix"
    rows = np.fromfile(header.path, "<i8", table.elements, offset=header.data_offset + table.offset)
    fits = len(rows) == table.elements and len(rows) > 0 and rows.min() >= 0 and rows.max() < vocabulary
    return "" if fits else f"{name} is a head of another model: it guesses tokens that this one does not have"


def _added_problem(header: GgufHeader, facts: BlockFacts) -> str:
    name, sizes = header.path.name, header.metadata
    if f"{BLOCK}.block_size" not in sizes:
        return f"{name} does not tell the size of its blocks, which a {facts.kind} head must"
    if facts.size > _LONGEST:
        return f"{name} tells of a block of {facts.size} tokens; those of {facts.kind} heads may have {_LONGEST}"
    if facts.kind is BlockKind.DFLASH_2 and facts.candidates < 1:
        return f"{name} does not tell how many candidates each of its places has"
    return ""


def _kind(header: GgufHeader) -> BlockKind:
    names = _names(header)
    if MARKOV_FROM in names:
        return BlockKind.DSPARK
    return BlockKind.DFLASH_2 if _SELECTOR in names else BlockKind.DFLASH


def _names(header: GgufHeader) -> set[str]:
    return {tensor.name for tensor in header.tensors}


def tensor_named(header: GgufHeader, name: str) -> TensorInfo | None:
    """The tensor of this name; None if there is none."""
    return next((tensor for tensor in header.tensors if tensor.name == name), None)
