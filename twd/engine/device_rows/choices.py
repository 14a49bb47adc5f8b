"""Picks of usual requests, for the trial of logits that stay on a device: what is picked, and how long that takes."""

import time
from typing import Final

from twd.decoding.sampler import SamplerFactory, TokenSampler
from twd.engine.context import Context
from twd.engine.steps.binding import RuleHolder
from twd.wire.failures import TwdError
from twd.wire.job import Sampling

_SEED: Final = 1
_NONE: Final = -1
USUAL: Final = (
    Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
    Sampling(temperature=0.7, top_p=0.9, repeat_penalty=1.1),
    Sampling(temperature=1.0),
)


class Choosers:
    """Chooses behind a fixed text as requests with usual settings do."""

    def __init__(self, context: Context) -> None:
        factory = SamplerFactory(context.model.vocab)
        self._context = context
        self._history = [token % context.model.vocab.size for token in range(0, 40 * 131, 131)]
        self._each = [_chooser(factory.sampler(one, _SEED, prompt_len=0)) for one in USUAL]

    def picks(self, row: int) -> list[int]:
        """The pick of each at index `row` of the last batch."""
        return [self._pick(row, sampler, rule) for sampler, rule in self._each]

    def first_ms(self, rows: list[int]) -> float:
        """The milliseconds in which the first picks in all of these rows."""
        began = time.perf_counter()
        for row in rows:
            self._pick(row, *self._each[0])
        return (time.perf_counter() - began) * 1000

    def _pick(self, row: int, sampler: TokenSampler, rule: RuleHolder) -> int:
        token = self._context.choice(row, rule, self._history)
        if token is not None:
            return token
        logits = self._context.logits(row)
        try:
            return sampler.pick(logits, self._history)
        except TwdError:  # logits that are no numbers: requests are told
            return _NONE


def _chooser(sampler: TokenSampler) -> tuple[TokenSampler, RuleHolder]:
    assert sampler.rule is not None
    return sampler, RuleHolder(sampler.rule)
