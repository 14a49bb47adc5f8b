"""Random requests of every kind, from a seed, for the proof that drafts never change a text."""

import random
from dataclasses import dataclass

from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.wire.job import Grammar, GrammarKind, Sampling

_SCHEMA = (
    '{"type":"object","properties":{"name":{"type":"string","maxLength":20},"age":{"type":"integer"},'
    '"tags":{"type":"array","items":{"enum":["a","b","c"]},"maxItems":3}},'
    '"required":["name","age","tags"],"additionalProperties":false}'
)
_GRAMMAR = Grammar(kind=GrammarKind.JSON_SCHEMA, text=_SCHEMA)
_MARKED = Grammar(kind=GrammarKind.JSON_SCHEMA, text=_SCHEMA, begins=".", ends="!")
_BEHIND = Grammar(kind=GrammarKind.JSON_SCHEMA, text=_SCHEMA, begins=".", rest=True)
_GRAMMARS = (None, None, None, None, None, _GRAMMAR, _MARKED, _BEHIND)
_STOPS = ((), (), ("\n\n",), (". ", "the"), (" a", "</s>", "und"))


@dataclass(frozen=True, slots=True)
class ExactCase:
    """One request: prompt, sampling, and end conditions."""

    prompt: BenchPrompt
    sampling: Sampling
    stop: tuple[str, ...]
    max_tokens: int
    grammar: Grammar | None
    window: int
    """Drafts in a window; 0: as many as pay."""


def draw_cases(count: int, seed: int = 1, max_tokens: int = 24) -> list[ExactCase]:
    """Return this many requests; the same seed gives the same ones."""
    dice = random.Random(seed)
    return [_draw(dice, max_tokens) for _ in range(count)]


def _draw(dice: random.Random, max_tokens: int) -> ExactCase:
    grammar = dice.choice(_GRAMMARS)
    return ExactCase(
        prompt=dice.choice(PROMPTS),
        sampling=_sampling(dice),
        stop=dice.choice(_STOPS) if grammar is None else (),
        max_tokens=dice.choice((1, 2, max_tokens // 2, max_tokens)),
        grammar=grammar,
        window=dice.choice((0, 2, 6, 12)),
    )


def _sampling(dice: random.Random) -> Sampling:
    greedy = dice.random() < 0.4
    return Sampling(
        temperature=0.0 if greedy else dice.choice((0.3, 0.8, 1.0, 1.5)),
        top_k=dice.choice((0, 0, 40, 5)),
        top_p=dice.choice((1.0, 1.0, 0.95, 0.5)),
        min_p=dice.choice((0.0, 0.0, 0.05)),
        typical_p=dice.choice((1.0, 1.0, 0.9)),
        repeat_penalty=dice.choice((1.0, 1.0, 1.1, 1.3)),
        presence_penalty=dice.choice((0.0, 0.0, 0.5)),
        frequency_penalty=dice.choice((0.0, 0.0, 0.5)),
        dry_multiplier=dice.choice((0.0, 0.0, 0.8)),
        logit_bias=dice.choice(({}, {}, {28: 3.0, 260: -5.0})),
        seed=dice.getrandbits(31),
    )
