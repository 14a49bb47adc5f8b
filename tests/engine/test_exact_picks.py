"""Sampled, penalised and grammar-bound texts of a real model are the same whatever drafts them."""

import json
import random
import re
from collections.abc import Iterator

import pytest

from tests.engine.driving import PROMPTS, generate, no_drafts, prompt_tokens
from twd.decoding.sampler import SamplerFactory
from twd.engine.context import Context, ContextSettings
from twd.engine.model import LoadedGguf
from twd.engine.target import LocalTarget
from twd.wire.job import Grammar, GrammarKind, Sampling

pytestmark = pytest.mark.model
COUNT = 64
TIP = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "tags": {"type": "array", "items": {"enum": ["code", "style", "tests"]}, "maxItems": 2},
    },
    "required": ["title", "stars", "tags"],
}
SCHEMA = Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(TIP))
MARKED = Grammar(kind=GrammarKind.JSON_SCHEMA, text=SCHEMA.text, begins=".", ends="!")
ALL_PENALTIES = Sampling(
    temperature=1.2,
    top_p=0.9,
    min_p=0.01,
    repeat_penalty=1.1,
    presence_penalty=0.1,
    frequency_penalty=0.1,
    dry_multiplier=0.8,
)
CASES = {
    "sampled": (Sampling(temperature=0.8), None),
    "all penalties": (ALL_PENALTIES, None),
    "schema, greedy": (Sampling(), SCHEMA),
    "schema, sampled": (Sampling(temperature=1.0, top_k=40), SCHEMA),
    "between marks": (Sampling(), MARKED),
    "between marks, sampled": (Sampling(temperature=0.7), MARKED),
}


@pytest.fixture(scope="module")
def target(q4: LoadedGguf) -> Iterator[LocalTarget]:
    made = LocalTarget(Context(q4, ContextSettings(ctx_size=512, parallel=1, threads=1)))
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def samplers(q4: LoadedGguf) -> SamplerFactory:
    return SamplerFactory(q4.vocab)


QUICK = ("all penalties", "schema, greedy")


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.thorough) for case in CASES]
)
def test_drafts_change_nothing(case: str, q4: LoadedGguf, target: LocalTarget, samplers: SamplerFactory) -> None:
    sampling, grammar = CASES[case]
    prompt = prompt_tokens(q4, PROMPTS[0])
    dice = random.Random(4)

    def text_with(quality: float) -> list[int]:
        def draft(out: list[int]) -> list[int]:
            right = truth[len(out) : len(out) + 6]
            return [token if dice.random() < quality else dice.randrange(q4.vocab.size) for token in right]

        sampler = samplers.sampler(sampling, 11, prompt_len=len(prompt), grammar=grammar)
        return generate(target, prompt, COUNT, draft if truth else no_drafts, sampler)  # type: ignore[arg-type]

    truth: list[int] = []
    truth = text_with(0.0)
    assert text_with(0.7) == truth
    text = q4.vocab.text(truth)
    if grammar is MARKED:
        before, mark, behind = text.partition(MARKED.begins)
        assert before, "it begins as it likes"
        assert re.match(r'\s*{\s*"title": ?"', behind), mark
    elif grammar is not None:
        assert json.loads(text).keys() == {"title", "stars", "tags"}
