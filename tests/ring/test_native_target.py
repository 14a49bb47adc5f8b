"""A real model over a ring says what it says in one process: greedy and sampled, with guesses of any kind, and when a
stage is lost midway."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.driving import PROMPTS
from tests.model_fixtures import model_cache, q4_path
from tests.ring.homes import Guess, described, desk, go_home, in_background, knowing, liar
from tests.ring.rings import Ring, native_ring
from tests.waiting import wait_until
from twd.decoding.window import Sampler, Score, Target, VerifyResult, Window
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.ring.frames import SessionSpec
from twd.ring.target import RemoteSpecSampler, RingTarget
from twd.ring.trial import RingTrial, pipe_of
from twd.wire.base import ModelId
from twd.wire.job import JobFinished, Sampling

__all__ = ["model_cache", "q4_path"]
COUNT = 24
SAMPLED = Sampling(temperature=0.8, top_p=0.95, repeat_penalty=1.1, seed=11)


@pytest.fixture(scope="module")
def whole(q4_path: Path) -> Iterator[NativeModel]:
    plan = LoadPlan(ModelId("m"), q4_path, ctx_size=512, parallel=4, threads=1, test=False)
    model = load_native(plan, lambda share, stage: None)
    yield model
    model.close()


@pytest.fixture(scope="module")
def ring(q4_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with native_ring(q4_path, [0, 16, 30], tmp_path_factory.mktemp("slices")) as made:
        yield made


def prompt_of(whole: NativeModel, text: str) -> list[int]:
    asked = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return whole.model.vocab.tokenize(asked, parse_special=True, add_bos=True)


def alone(whole: NativeModel, prompt: list[int], sampling: Sampling) -> list[int]:
    """The text of the whole model, one token at a time."""
    sampler = whole.samplers.sampler(sampling, sampling.seed or 0, prompt_len=len(prompt))
    slot, cached = whole.target.open(prompt, sampler)
    tokens, ends = list(prompt), whole.model.vocab.end_tokens
    feed, at = tuple(prompt[cached:]), cached
    while len(tokens) - len(prompt) < COUNT:
        whole.target.submit([Window(slot, 0, at, feed, committed=len(feed))])
        (verdict,) = whole.target.collect()
        if verdict.tokens[0] in ends:
            break
        at, feed = len(tokens), (verdict.tokens[0],)
        tokens += verdict.tokens
    whole.target.close(slot)
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    "sampling",
    [pytest.param(Sampling(), marks=pytest.mark.thorough, id="greedy"), pytest.param(SAMPLED, id="sampled")],
)
def test_the_text_is_that_of_the_whole_model(whole: NativeModel, ring: Ring, sampling: Sampling) -> None:
    vocab = whole.model.vocab
    prompt = prompt_of(whole, PROMPTS[0])
    text = alone(whole, prompt, sampling)
    guesses: list[Guess | None] = [
        None,
        liar(vocab.size, 3),
        knowing(text, len(prompt)),
        knowing(text, len(prompt), 0.2),
    ]
    for guess in guesses:
        with desk(ring, vocabulary=vocab.size, guess=guess, end_tokens=vocab.end_tokens) as made:
            made.ask("a", prompt, COUNT, sampling)
            (end,) = made.wait()
            assert isinstance(end, JobFinished), end
            assert made.texts["a"] == text


def test_sessions_beside_each_other_and_a_stage_lost_midway(whole: NativeModel, ring: Ring) -> None:
    vocab = whole.model.vocab
    prompts = [prompt_of(whole, text) for text in PROMPTS]
    texts = [alone(whole, prompt, Sampling()) for prompt in prompts]
    with desk(ring, vocabulary=vocab.size, end_tokens=vocab.end_tokens) as made:
        repairs: list[threading.Thread] = []

        def look(job: str, tokens: int) -> None:
            if tokens >= 8 and not repairs:
                ring.stages[1].server.unwire("a test took it away")
                repairs.append(in_background(lambda: made.target.rewire(go_home(ring))))

        made.watch = look
        for number, prompt in enumerate(prompts):
            made.ask(f"j{number}", prompt, COUNT)
        assert all(isinstance(end, JobFinished) for end in made.wait(len(prompts)))
        assert [made.texts[f"j{number}"] for number in range(len(prompts))] == texts
        repairs[0].join(20.0)
        assert made.target.generation() == 2


def test_the_trial_finds_windows_exact(whole: NativeModel, ring: Ring) -> None:
    home = go_home(ring)
    pipe = pipe_of(described(ring), home.bounds.credits)
    target = RingTarget(home, pipe, vocabulary=whole.model.vocab.size)
    found = RingTrial(home, target, prompt_of(whole, PROMPTS[1])).run("as the stages say")
    assert (found.exact, found.compared, found.flipped) == (True, 10, 0)
    target.shutdown()
    assert home.join()


def test_given_tokens_are_scored_as_the_whole_model_does(whole: NativeModel, ring: Ring) -> None:
    prompt = prompt_of(whole, PROMPTS[0])
    truth = alone(whole, prompt, Sampling())
    given = [*truth[:10], truth[3], *truth[11:30]]
    home = go_home(ring)
    target = RingTarget(home, pipe_of(described(ring), home.bounds.credits), vocabulary=whole.model.vocab.size)
    spec = SessionSpec(sampling=Sampling(), seed=0, prompt_len=len(prompt))
    sampler = whole.samplers.sampler(Sampling(), 0, prompt_len=len(prompt))
    try:
        assert scores(target, RemoteSpecSampler(spec), prompt, given) == scores(whole.target, sampler, prompt, given)
    finally:
        target.shutdown()
        assert home.join()


def scores(target: Target, sampler: Sampler, prompt: list[int], given: list[int]) -> list[Score]:
    """How well tokens fit behind a prompt, eight in a window."""
    slot, cached = target.open(prompt, sampler)
    found: list[Score] = []
    at, read, epoch = cached, prompt[cached:], 1000
    for start in range(0, len(given), 8):
        piece, epoch = given[start : start + 8], epoch + 1
        last = start + 8 >= len(given)
        target.submit([Window(slot, epoch, at, (*read, *piece), committed=len(read), scores=True, ends=last)])
        verdicts: list[VerifyResult] = []
        wait_until(lambda verdicts=verdicts: verdicts.extend(target.collect()) or verdicts, "it is scored")  # type: ignore[misc]
        assert verdicts[0].failure is None
        found += verdicts[0].scores
        at, read = at + len(read) + len(piece) - 1, piece[-1:]
    target.close(slot)
    return found
