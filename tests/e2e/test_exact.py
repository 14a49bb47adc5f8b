"""Drafts change speed, never text: real engines, requests of every kind, drafters of every kind."""

import asyncio

import pytest

from twd.bench.client import BenchRequest, MeasuredAnswer
from twd.bench.exact_cases import ExactCase, draw_cases
from twd.bench.lab import MODEL, InProcessSystem, lab
from twd.engine.demo_model import demo_model
from twd.wire.job import Speculation

pytestmark = [pytest.mark.model, pytest.mark.slow]


async def answer(room: InProcessSystem, case: ExactCase, speculation: Speculation) -> MeasuredAnswer:
    how = BenchRequest(
        speculation, case.max_tokens, case.sampling, ignore_eos=False, stop=case.stop, grammar=case.grammar
    )
    return await room.client.answer(MODEL, case.prompt, how)


async def same(room: InProcessSystem, cases: list[ExactCase]) -> int:
    """Ask each case plain and drafted; returns how many guesses were checked on the way."""
    checked = 0
    for case in cases:
        plain = await answer(room, case, Speculation(enabled=False))
        drafted = await answer(room, case, Speculation(window=case.window))
        assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text), case
        checked += drafted.stats.checked
    return checked


@pytest.mark.parametrize(
    ("weights", "each"), [("q4_0", 2), *(pytest.param(kind, 4, marks=pytest.mark.thorough) for kind in ("q4_0", "f32"))]
)
async def test_texts_are_equal_whatever_drafts(model_cache: object, weights: str, each: int) -> None:
    path, draft = demo_model(model_cache, weights), demo_model(model_cache, "q8_0")  # type: ignore[arg-type]
    cases = draw_cases(4 * each + 1, seed=7, max_tokens=16)
    async with lab(path) as room:
        assert room.speculator.loaded is not None
        assert room.speculator.loaded.exactness.exact
        vocab = room.speculator.loaded.facts.vocab
        await same(room, cases[:each])
        drafter = await room.drafter(draft)
        checked = await same(room, cases[each : 2 * each + 1])
        liar = await room.hostile(3, vocab)
        checked += await same(room, cases[2 * each + 1 : 3 * each + 1])
        await drafter.stop("midway")
        checked += await same(room, cases[3 * each + 1 :])
        await liar.stop("done")
    assert checked > 0


@pytest.mark.thorough
async def test_sessions_side_by_side_do_not_touch_each_other(model_cache: object) -> None:
    cases = draw_cases(6, seed=9, max_tokens=24)
    async with lab(demo_model(model_cache, "q4_0"), parallel=4) as room:  # type: ignore[arg-type]
        alone = [await answer(room, case, Speculation(enabled=False)) for case in cases]
        together = await asyncio.gather(*(answer(room, case, Speculation()) for case in cases))
    assert [one.tokens for one in together] == [one.tokens for one in alone]
