"""The pure choice of each token: pick(target logits, sampling params, seed, position)."""

import math
from collections.abc import Sequence

from twd.engine import noise
from twd.engine.noise import Logits
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling


class TokenPicker:
    """Chooses the tokens of one text; what it answers depends on its arguments and the history alone."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self._sampling = sampling
        self._seed = seed

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """The token that follows `history` (prompt and generated tokens); the logits stay untouched."""
        top = _checked_argmax(logits)
        if self._sampling.temperature <= 0.0:
            return top
        key = noise.draw(self._seed, len(history))
        return noise.strongest(logits, self._sampling.temperature, key)


def _checked_argmax(logits: Logits) -> int:
    top = int(logits.argmax())
    if math.isnan(logits[top]) or logits[top] == -math.inf:
        raise TwdError(FailureCode.INTERNAL, "The model's logits are not numbers; its file or its memory is damaged.")
    return top
