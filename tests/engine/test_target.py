"""The local target on a real model: drafts of any quality, sessions side by side, prefixes, trees, failures."""

import random
from collections.abc import Iterator

import pytest

from tests.engine.driving import PROMPTS, Greedy, generate, no_drafts, prompt_tokens, same_logits, start
from twd.decoding.window import Window
from twd.engine.context import Context, ContextSettings
from twd.engine.model import LoadedGguf
from twd.engine.target import LocalTarget

pytestmark = pytest.mark.model
COUNT = 32


def make(model: LoadedGguf, parallel: int = 1, ctx_size: int = 512, rows_min: int = 1, **more: object) -> LocalTarget:
    settings = ContextSettings(ctx_size=ctx_size, parallel=parallel, threads=1, **more)  # type: ignore[arg-type]
    return LocalTarget(Context(model, settings), rows_min=rows_min)


@pytest.fixture(scope="module")
def single(q4: LoadedGguf) -> Iterator[LocalTarget]:
    target = make(q4)
    yield target
    target.shutdown()


@pytest.fixture(scope="module")
def plain(q4: LoadedGguf, single: LocalTarget) -> dict[str, tuple[list[int], Greedy]]:
    """Each prompt's greedy text and logits, token by token."""
    texts = {}
    for text in PROMPTS:
        sampler = Greedy(record=True)
        texts[text] = (generate(single, prompt_tokens(q4, text), COUNT, no_drafts, sampler), sampler)
    return texts


def test_text_makes_sense(q4: LoadedGguf, plain: dict[str, tuple[list[int], Greedy]]) -> None:
    assert "Python" in q4.vocab.text(plain[PROMPTS[0]][0])


def test_a_living_target_computes_the_same_with_other_threads(
    q4: LoadedGguf, plain: dict[str, tuple[list[int], Greedy]]
) -> None:
    truth, record = plain[PROMPTS[0]]
    target, sampler = make(q4), Greedy(record=True)

    def other_threads(out: list[int]) -> list[int]:
        target.use_threads(1 + len(out) // 4 % 2)
        return []

    assert generate(target, prompt_tokens(q4, PROMPTS[0]), COUNT, other_threads, sampler) == truth
    assert same_logits(sampler.seen, record.seen)
    target.shutdown()


QUICK = ((3, 0.8), (8, 0.0), (31, 1.0))
WIDTHS_AND_QUALITIES = [
    pytest.param(width, quality, marks=() if (width, quality) in QUICK else pytest.mark.thorough)
    for width in (1, 3, 8, 31)
    for quality in (0.0, 0.8, 1.0)
]


@pytest.mark.parametrize(("width", "quality"), WIDTHS_AND_QUALITIES)
def test_drafts_change_neither_text_nor_logits(
    q4: LoadedGguf, single: LocalTarget, plain: dict[str, tuple[list[int], Greedy]], width: int, quality: float
) -> None:
    truth, record = plain[PROMPTS[1]]
    dice = random.Random(width)

    def draft(out: list[int]) -> list[int]:
        right = truth[len(out) : len(out) + width]
        return [token if dice.random() < quality else dice.randrange(q4.vocab.size) for token in right]

    sampler = Greedy(record=True)
    assert generate(single, prompt_tokens(q4, PROMPTS[1]), COUNT, draft, sampler) == truth
    assert same_logits(sampler.seen, record.seen)


def test_sessions_side_by_side_do_not_touch_each_other(
    q4: LoadedGguf, plain: dict[str, tuple[list[int], Greedy]]
) -> None:
    """Windows of unequal width, on slots with a gap between them, in common passes."""
    target = make(q4, parallel=6)
    dice = random.Random(5)
    samplers = {text: Greedy(record=True) for text in PROMPTS}
    prompts = {text: prompt_tokens(q4, text) for text in PROMPTS}
    slots, outs = {}, {}
    for number, text in enumerate(PROMPTS):
        if number == 2:
            target.open(prompts[text], Greedy())
        slots[text], outs[text] = start(target, prompts[text], samplers[text])
    while any(len(out) < COUNT for out in outs.values()):
        windows = []
        for text, out in outs.items():
            if len(out) < COUNT:
                guess = plain[text][0][len(out) : len(out) + dice.randrange(6)]
                draft = [token if dice.random() < 0.8 else 7 for token in guess]
                windows.append(Window(slots[text], 0, len(prompts[text]) + len(out) - 1, (out[-1], *draft)))
        target.submit(windows)
        verdicts = target.collect()
        assert {verdict.slot for verdict in verdicts} == {window.slot for window in windows}
        for verdict in verdicts:
            assert verdict.failure is None
            next(outs[text] for text in PROMPTS if slots[text] == verdict.slot).extend(verdict.tokens)
    for text in PROMPTS:
        assert outs[text][:COUNT] == plain[text][0]
        assert same_logits(samplers[text].seen, plain[text][1].seen)
    target.shutdown()


def test_each_pass_is_told_before_it_begins(q4: LoadedGguf) -> None:
    target, told = make(q4), list[int]()
    target.tell_passes(told.append)
    tokens = [7] * 200
    slot, _ = target.open(tokens, Greedy())
    target.submit([Window(slot, 64, 0, tuple(tokens), committed=200)])
    target.collect()
    assert len(told) > 2, "one answer took several passes"
    assert sum(told) == 200
    assert max(told) <= target.window_max
    target.shutdown()
