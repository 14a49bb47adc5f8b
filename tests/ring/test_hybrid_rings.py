"""Models with a recurrent state over a ring say what they say in one process.

With guesses of any kind and several windows in flight, in the next turn of a chat, and when a stage is lost midway.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from tests.engine.slices.recipes import VOCABULARY, recipe
from tests.ring.homes import Desk, Guess, desk, go_home, in_background, knowing, liar
from tests.ring.rings import Ring, native_ring
from twd.decoding.window import Window
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.engine.slices.undo import REACH
from twd.wire.base import ModelId
from twd.wire.job import JobFinished, Sampling

COUNT = 48
PROMPT = [int(token) for token in np.random.default_rng(8).integers(1, VOCABULARY - 1, 70)]
SAMPLED = Sampling(temperature=0.8, top_p=0.95, seed=11)
KINDS = {
    "qwen35": [0, 3, 5, 8],
    "jamba": [0, 1, 4, 8],
    "mamba2": [0, 2, 7, 8],
    "plamo2": [0, 1, 4, 8],
    "deepseek4": [0, 1, 5, 8],
}
"""Snapshots of llama.cpp and of our build, no attention at all, saved states, and several streams of states."""


@dataclass
class Case:
    """A model in one process, and over three stages."""

    whole: NativeModel
    ring: Ring


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=() if kind in ("jamba", "qwen35") else pytest.mark.thorough) for kind in KINDS],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("hybrid")
    path = recipe(request.param).write(folder / "model.gguf")
    plan = LoadPlan(ModelId("m"), path, ctx_size=512, parallel=2, threads=1, test=False)
    whole = load_native(plan, lambda share, stage: None)
    try:
        with native_ring(path, KINDS[request.param], folder, parallel=2) as ring:
            yield Case(whole, ring)
    finally:
        whole.close()


def alone(whole: NativeModel, prompt: list[int], sampling: Sampling) -> list[int]:
    """The text of the whole model, one token at a time."""
    sampler = whole.samplers.sampler(sampling, sampling.seed or 0, prompt_len=len(prompt))
    slot, cached = whole.target.open(prompt, sampler)
    tokens, feed, at = list(prompt), tuple(prompt[cached:]), cached
    while len(tokens) - len(prompt) < COUNT:
        whole.target.submit([Window(slot, 0, at, feed, committed=len(feed))])
        (verdict,) = whole.target.collect()
        assert verdict.failure is None
        at, feed = len(tokens), (verdict.tokens[0],)
        tokens += verdict.tokens
    whole.target.close(slot)
    return tokens[len(prompt) :]


def ask(made: Desk, name: str, prompt: list[int], sampling: Sampling = SAMPLED) -> list[int]:
    made.ask(name, prompt, COUNT, sampling)
    (end,) = made.wait()
    assert isinstance(end, JobFinished), end
    return made.texts[name]


@pytest.mark.parametrize(
    "sampling",
    [pytest.param(Sampling(), marks=pytest.mark.thorough, id="greedy"), pytest.param(SAMPLED, id="sampled")],
)
def test_the_text_is_that_of_the_whole_model(case: Case, sampling: Sampling) -> None:
    text = alone(case.whole, PROMPT, sampling)
    guesses: list[Guess | None] = [
        None,
        liar(VOCABULARY, 3),
        knowing(text, len(PROMPT)),
        knowing(text, len(PROMPT), 0.2),
    ]
    for guess in guesses:
        with desk(case.ring, vocabulary=VOCABULARY, guess=guess) as made:
            assert ask(made, "a", PROMPT, sampling) == text


def test_the_next_turn_reads_only_what_is_new(case: Case) -> None:
    text = alone(case.whole, PROMPT, SAMPLED)
    longer = [*PROMPT, *text[:-2], 5, *PROMPT[:9]]
    truth = alone(case.whole, longer, SAMPLED)
    with desk(case.ring, vocabulary=VOCABULARY, guess=knowing(text, len(PROMPT), 0.2)) as made:
        ask(made, "a", PROMPT)
        before = made.target.rows_sent
        made.guess = None
        assert ask(made, "b", longer) == truth
        assert made.target.rows_sent - before < len(longer) + COUNT // 2


def test_a_prompt_that_parts_too_early_begins_anew(case: Case) -> None:
    long = PROMPT * 5
    other = [*long[:20], 3, *long[21:60]]
    truth = alone(case.whole, other, SAMPLED)
    assert len(long) > REACH
    with desk(case.ring, vocabulary=VOCABULARY) as made:
        ask(made, "a", long)
        ask(made, "b", long)
        assert ask(made, "c", other) == truth


def test_a_stage_lost_midway_costs_no_word(case: Case) -> None:
    text = alone(case.whole, PROMPT, SAMPLED)
    with desk(case.ring, vocabulary=VOCABULARY, guess=knowing(text, len(PROMPT), 0.1)) as made:
        repairs: list[threading.Thread] = []

        def look(job: str, tokens: int) -> None:
            if tokens >= 15 and not repairs:
                case.ring.stages[1].server.unwire("a test took it away")
                repairs.append(in_background(lambda: made.target.rewire(go_home(case.ring))))

        made.watch = look
        assert ask(made, "a", PROMPT) == text
        repairs[0].join(20.0)
        assert made.target.generation() == 2
