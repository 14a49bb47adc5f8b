"""Samples each token. The choice depends only on the target's logits, the sampling parameters, seed and history."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from twd.decoding import noise
from twd.decoding.filters import Candidates, everything, filters_of, narrowed
from twd.decoding.logprobs import token_logprob
from twd.decoding.noise import Ids, Logits
from twd.decoding.penalties import adjustments_of
from twd.decoding.steps import PickRule
from twd.structured_output.compiled import CompiledGrammar, GrammarVocabulary
from twd.structured_output.forced_tokens import ForcedTokens, WritingVocabulary, remembered
from twd.structured_output.state import GrammarCache, GrammarState
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, Sampling, TokenLogprob

_FEW = 4096
"""Up to this number of candidates, the noise is computed for each; with more, the pruned search is faster."""


class SamplerFactory:
    """Makes the samplers of one model. They share the grammars that are compiled for its vocabulary."""

    def __init__(self, vocab: WritingVocabulary) -> None:
        self._vocab = vocab
        self._continued = remembered(vocab.continued)
        self.grammars = GrammarCache(vocab)

    def sampler(
        self,
        sampling: Sampling,
        seed: int,
        *,
        prompt_len: int,
        grammar: Grammar | None = None,
        ignore_eos: bool = False,
    ) -> "TokenSampler":
        """A sampler for one text; raises BAD_REQUEST or BAD_GRAMMAR before any decoding.

        The first grammar of a model takes about a second here, so that the engine's thread need not spend it later.
        """
        if grammar is not None:
            self.grammars.prepare()
        made = None if grammar is None else self.grammars.compiled(grammar)
        banned = self._vocab.end_tokens if ignore_eos else frozenset[int]()
        return TokenSampler(sampling, seed, self._vocab, grammar=made, prompt_len=prompt_len, banned=banned)

    def ahead(self, grammar: Grammar, *, binding: bool = True) -> ForcedTokens:
        """A predictor of forced tokens for one text; if not `binding`, the grammar is not enforced on the text."""
        return ForcedTokens(self.grammars.compiled(grammar), self._vocab.piece, self._continued, binding=binding)

    def reporter(self, top: int) -> Callable[[Logits, int], TokenLogprob]:
        """A function that gives the log probability of a picked token, and of the `top` likeliest tokens."""
        return lambda logits, token: token_logprob(logits, token, top, self._vocab.piece)


class TokenSampler:
    """The sampler of one text. Its answers depend only on the logits and the history.

    Penalties use the whole history; the grammar uses the history from `prompt_len` on. Banned tokens are chosen only if
    the grammar allows no other token.
    """

    def __init__(
        self,
        sampling: Sampling,
        seed: int,
        vocab: GrammarVocabulary,
        *,
        grammar: CompiledGrammar | None = None,
        prompt_len: int = 0,
        banned: frozenset[int] = frozenset(),
    ) -> None:
        _check(sampling, vocab)
        self._temperature = sampling.temperature
        self._seed = seed
        self._size = vocab.size
        self._banned = sorted(banned)
        self._adjustments = adjustments_of(sampling, vocab.piece)
        # At temperature 0 only typical_p can change the choice: no other filter removes the likeliest token.
        matters = self._temperature > 0.0 or sampling.typical_p < 1.0
        self._filters = filters_of(sampling) if matters else ()
        self._greedy = not self._filters and self._temperature <= 0.0
        self._walk = None if grammar is None else GrammarState(grammar)
        self._prompt_len = prompt_len
        loops = sampling.dry_multiplier > 0.0 and sampling.repeat_last_n != 0
        plain = grammar is None and not loops and sampling.typical_p >= 1.0
        self.rule = PickRule(sampling, seed, tuple(self._banned)) if plain else None
        """The rule by which native code can choose; None: only this sampler can."""
        self._able: Ids | None = None
        """The allowed tokens of the last choice, if the grammar refused the first pick; else None."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """The token that follows `history` (prompt and generated tokens). Does not change the logits."""
        top = _checked_argmax(logits)
        self._able = None
        plain = self._greedy and not self._adjustments and not self._banned
        if plain and self._walk is None:
            return top
        with np.errstate(over="ignore"):
            adjusted = self._adjusted(logits, history)
            token = top if plain else self._choose(everything(adjusted), len(history))
            return self._conforming(token, logits, adjusted, history)

    def _adjusted(self, logits: Logits, history: Sequence[int]) -> Logits:
        if not self._adjustments and not self._banned:
            return logits
        copy = logits.copy()
        for adjust in self._adjustments:
            adjust(copy, history)
        copy[self._banned] = -np.inf
        return copy

    def _choose(self, candidates: Candidates, position: int) -> int:
        ids, logits = narrowed(candidates, self._filters)
        if self._temperature <= 0.0:
            return int(ids[logits.argmax()])
        key = noise.draw(self._seed, position)
        if len(ids) > _FEW:
            return noise.strongest(self._spread(ids, logits), self._temperature, key)
        return noise.strongest_of(ids, logits, self._temperature, key)

    def _conforming(self, token: int, logits: Logits, adjusted: Logits, history: Sequence[int]) -> int:
        """`token` if the grammar allows it; else the choice among the tokens that it allows."""
        if self._walk is None:
            return token
        generated = history[self._prompt_len :]
        if self._walk.allows(generated, token):
            return token
        allowed = self._walk.allowed(generated)
        able = allowed[adjusted[allowed] > -np.inf]
        self._able = able if len(able) else allowed
        if not len(able):
            return int(allowed[logits[allowed].argmax()])
        return self._choose(Candidates(able, adjusted[able]), len(history))

    def conformed(self, logits: Logits) -> Logits:
        """The logits of the last choice; if the grammar refused the first pick, -inf for tokens that it forbids."""
        return logits if self._able is None else self._spread(self._able, logits[self._able])

    def _spread(self, ids: Ids, logits: Logits) -> Logits:
        """Logits for the whole vocabulary: those of the candidates, and -inf for all other tokens."""
        if len(ids) == self._size:
            return logits
        whole = np.full(self._size, -np.inf, dtype=np.float32)
        whole[ids] = logits
        return whole


def _check(sampling: Sampling, vocab: GrammarVocabulary) -> None:
    for token in sampling.logit_bias:
        if not 0 <= token < vocab.size:
            message = f"logit_bias names token {token}, but this model's tokens are 0 to {vocab.size - 1}."
            raise TwdError(FailureCode.BAD_REQUEST, message, "logit_bias")


def _checked_argmax(logits: Logits) -> int:
    top = int(logits.argmax())
    if not math.isfinite(logits[top]):
        raise TwdError(FailureCode.INTERNAL, "The model's logits are not numbers; its file or its memory is damaged.")
    return top
