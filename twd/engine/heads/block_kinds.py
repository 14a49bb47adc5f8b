"""Heads that guess a block in one pass, and take each guess with regard to the one before it: DSpark and DFlash 2."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from twd.decoding.noise import Ids
from twd.engine.context import Context, Logits
from twd.engine.heads.block import BlockHead
from twd.engine.heads.tensor_rows import TensorRows
from twd.engine.model import LoadedGguf
from twd.gguf_tools.block_head import (
    CONFIDENCE,
    MARKOV_FROM,
    MARKOV_SCALE,
    MARKOV_TO,
    TABLE,
    BlockFacts,
    tensor_named,
)
from twd.gguf_tools.header import GgufHeader
from twd.wire.failures import FailureCode, TwdError

_LIKELIEST: Final = 1024
"""Of so many tokens the logits follow another token than llama.cpp took."""
_NEVER: Final = -1e9
"""The logit of a token that a head does not offer."""
_SUREST: Final = 1e-6
_MOST_ODDS: Final = 50.0


class MarkovHead(BlockHead):
    """DSpark: what is likely after the guess before is added to the logits of each place.

    llama.cpp adds it after the likeliest guess. Where the sampler takes another one, the difference is added here.
    """

    def __init__(self, target: Context, model: LoadedGguf, facts: BlockFacts, header: GgufHeader) -> None:
        self._links = TokenLinks(header)
        self._told: list[tuple[int, float]] = []
        """For each place of the last block, the likeliest token, and how sure of it the head is."""
        super().__init__(target, model, facts)

    def _chain(self, slot: int, at: int, text: Sequence[int], count: int) -> Iterator[Logits]:
        rows, taken = self._block(slot, at, text[-1], count), text[-1]
        confidence = [float(self._row(row)[0]) for row in rows] if self._facts.confident else []
        self._told = []
        for number, row in enumerate(rows):
            logits, token = self._context.logits(row).copy(), text[-1]
            likeliest = int(logits.argmax())
            if token != taken:
                self._links.follow(logits, token, taken)
            if confidence:
                told = self._links.confidence(confidence[number], token, taken)
                self._told.append((int(logits.argmax()), told))
            taken = likeliest
            yield logits

    def _sure(self, number: int, logits: Logits, token: int) -> float:
        """What it tells of its own guess; of another token, the probability."""
        likeliest, told = self._told[number] if self._told else (-1, 0.0)
        return told if token == likeliest else super()._sure(number, logits, token)


class TokenLinks:
    """What a token makes likely behind it: the product of two matrices in the file of a DSpark head."""

    def __init__(self, header: GgufHeader) -> None:
        self._from, self._to = (_rows(header, name) for name in (MARKOV_FROM, MARKOV_TO))
        table, scale = tensor_named(header, TABLE), tensor_named(header, MARKOV_SCALE)
        self._scale = 1.0 if scale is None else float(_values(header, MARKOV_SCALE, "<f4")[0])
        self._row_of = None if table is None else _row_of(_values(header, TABLE, "<i8"))
        tells = tensor_named(header, CONFIDENCE) is not None
        self._doubt = _rows(header, CONFIDENCE).take([0])[0, -self._from.width :] if tells else None

    def follow(self, logits: Logits, token: int, other: int) -> None:
        """Let logits that follow `other` follow `token`: those of the likeliest tokens; the rest stays."""
        likeliest = np.argpartition(logits, -min(_LIKELIEST, len(logits)))[-_LIKELIEST:]
        likeliest = likeliest[np.isfinite(logits[likeliest])]
        mine, others = self._from.take([token, other])
        logits[likeliest] += self._scale * (self._to.take(self._rows_of(likeliest)) @ (mine - others))

    def confidence(self, told: float, token: int, other: int) -> float:
        """How sure a head is that is this sure behind `other`, behind `token`."""
        if token == other or self._doubt is None:
            return told
        mine, others = self._from.take([token, other])
        odds = min(max(told, _SUREST), 1 - _SUREST)
        odds = math.log(odds / (1 - odds)) + float(self._doubt @ (mine - others))
        return 1 / (1 + math.exp(-min(max(odds, -_MOST_ODDS), _MOST_ODDS)))

    def _rows_of(self, tokens: Ids) -> Ids:
        return tokens if self._row_of is None else np.array([self._row_of[token] for token in tokens.tolist()], int)


class SelectorHead(BlockHead):
    """DFlash 2: each place has a few candidates, with a score behind each candidate of the place before it."""

    _gives_outputs = False

    def _chain(self, slot: int, at: int, text: Sequence[int], count: int) -> Iterator[Logits]:
        size, before = self._facts.candidates, 0
        for row in self._block(slot, at, text[-1], count):
            known, scores = np.split(self._row(row)[: size + size * size], [size])
            candidates = known.astype(int).tolist()
            logits = np.full(self._context.model.vocab.size, _NEVER, np.float32)
            logits[candidates] = scores[before * size : (before + 1) * size]
            yield logits
            if text[-1] not in candidates:
                return
            before = candidates.index(text[-1])


def _rows(header: GgufHeader, name: str) -> TensorRows:
    tensor = tensor_named(header, name)
    if tensor is None:
        raise TwdError(FailureCode.BAD_REQUEST, f"{header.path.name} is a DSpark head without its matrix {name}")
    return TensorRows(header, tensor)


def _values(header: GgufHeader, name: str, kind: str) -> np.ndarray:
    tensor = tensor_named(header, name)
    assert tensor is not None
    return np.fromfile(header.path, kind, tensor.elements, offset=header.data_offset + tensor.offset)


def _row_of(table: np.ndarray) -> dict[int, int]:
    return {token: row for row, token in enumerate(table.tolist())}
