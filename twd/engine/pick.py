"""The pure choice of each token: pick(target logits, sampling params, seed, position)."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from twd.engine import noise
from twd.engine.filters import Candidates, everything, filters_of, narrowed
from twd.engine.noise import Ids, Logits
from twd.engine.penalties import adjustments_of
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling

_FEW = 4096
"""Up to so many tokens each gets its noise; for more the pruned search is faster."""


class Vocabulary(Protocol):
    """What a picker needs to know of a model's tokens."""

    @property
    def size(self) -> int:
        """How many tokens there are."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""


class TokenPicker:
    """Chooses the tokens of one text; what it answers depends on its arguments and the history alone."""

    def __init__(self, sampling: Sampling, seed: int, vocab: Vocabulary) -> None:
        _check(sampling, vocab)
        self._temperature = sampling.temperature
        self._seed = seed
        self._size = vocab.size
        self._adjustments = adjustments_of(sampling, vocab.piece)
        # Only typical_p can remove the likeliest token, so only then does a filter matter to the greedy choice.
        matters = self._temperature > 0.0 or sampling.typical_p < 1.0
        self._filters = filters_of(sampling) if matters else ()

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """The token that follows `history` (prompt and generated tokens); the logits stay untouched."""
        top = _checked_argmax(logits)
        if not self._adjustments and not self._filters and self._temperature <= 0.0:
            return top
        with np.errstate(over="ignore"):
            return self._choose(everything(self._adjusted(logits, history)), len(history))

    def _adjusted(self, logits: Logits, history: Sequence[int]) -> Logits:
        if not self._adjustments:
            return logits
        copy = logits.copy()
        for adjust in self._adjustments:
            adjust(copy, history)
        return copy

    def _choose(self, candidates: Candidates, position: int) -> int:
        ids, logits = narrowed(candidates, self._filters)
        if self._temperature <= 0.0:
            return int(ids[logits.argmax()])
        key = noise.draw(self._seed, position)
        if len(ids) > _FEW:
            return noise.strongest(_spread(ids, logits, self._size), self._temperature, key)
        return noise.strongest_of(ids, logits, self._temperature, key)


def _spread(ids: Ids, logits: Logits, size: int) -> Logits:
    """The candidates' logits where they stand in the vocabulary; all others are impossible."""
    if len(ids) == size:
        return logits
    whole = np.full(size, -np.inf, dtype=np.float32)
    whole[ids] = logits
    return whole


def _check(sampling: Sampling, vocab: Vocabulary) -> None:
    for token in sampling.logit_bias:
        if not 0 <= token < vocab.size:
            message = f"logit_bias names token {token}, but this model's tokens are 0 to {vocab.size - 1}."
            raise TwdError(FailureCode.BAD_REQUEST, message, "logit_bias")


def _checked_argmax(logits: Logits) -> int:
    top = int(logits.argmax())
    if not math.isfinite(logits[top]):
        raise TwdError(FailureCode.INTERNAL, "The model's logits are not numbers; its file or its memory is damaged.")
    return top
