"""Remote servers as targets: the texts are those that the server alone would write, in fewer requests."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from tests.backends.fakes.gpu_servers import FakeVllm
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.toy import EMOJI, TOY
from tests.backends.listener import chat, job
from tests.backends.rigs import echoing
from tests.backends.verifier.towers import LOOPING, SERVERS, OpenTower, emoji_start, text_of
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    FinishReason,
    Grammar,
    GrammarKind,
    JobFinished,
    Judge,
    Prompt,
    Sampling,
    Speculation,
    TokensAccepted,
)
from twd.wire.model import ModelReady


@pytest.mark.parametrize("make", [make for _, make in SERVERS], ids=[name for name, _ in SERVERS])
async def test_a_greedy_text_is_the_servers_own(open_tower: OpenTower, make: Callable[[], OpenAiServer]) -> None:
    tower = await open_tower(make)
    (ready,) = tower.ear.of(ModelReady)
    assert ready.facts.can_verify
    for number, start in enumerate(("once upon", "the little one", "a" + LOOPING)):
        text, end = await tower.run(job(start, f"job-{number}", max_tokens=60))
        wanted = TOY.generate(TOY.tokenize(start), 60)
        assert isinstance(end, JobFinished)
        if make is echoing:  # what is a token to it is a whole character here
            assert TOY.shown(TOY.generate(TOY.tokenize(start), 300)).startswith(text)
            continue
        assert text == TOY.shown(wanted)
        assert end.reason is (FinishReason.LENGTH if len(wanted) == 60 else FinishReason.STOP)


@pytest.mark.parametrize("make", [make for _, make in SERVERS], ids=[name for name, _ in SERVERS])
async def test_guesses_save_requests(open_tower: OpenTower, make: Callable[[], OpenAiServer]) -> None:
    tower = await open_tower(make)
    asked = len(tower.server.seen)
    start = "it was that"
    text, end = await tower.run(job(start, max_tokens=200, speculation=Speculation(window=8)))
    assert text == TOY.shown(TOY.generate(TOY.tokenize(start), 200))
    assert isinstance(end, JobFinished)
    assert end.stats.taken >= 40, "the toy repeats itself, and n-grams see it"
    assert end.stats.passes < end.stats.completion_tokens
    assert _scores(tower.server, asked) <= end.stats.passes


def _scores(server: OpenAiServer, since: int) -> int:
    """How many requests asked for scores."""
    bodies = [seen.body for seen in server.seen[since:]]
    return sum("prompt_logprobs" in body or "echo" in body or "return_logprob" in body for body in bodies)


async def test_plain_text_comes_from_one_stream(open_tower: OpenTower) -> None:
    tower = await open_tower()
    await tower.run(job("once upon", "warm", max_tokens=40, speculation=Speculation(enabled=False)))
    before = [seen for seen in tower.server.seen if seen.path == "/v1/completions"]
    _, end = await tower.run(job("once upon", max_tokens=40, speculation=Speculation(enabled=False)))
    assert isinstance(end, JobFinished)
    asked = [seen for seen in tower.server.seen if seen.path == "/v1/completions"][len(before) :]
    assert len([seen for seen in asked if seen.body.get("stream")]) == 1
    assert len(asked) <= 2, "the stream, and perhaps a look whether the text ends"


async def test_emoji_are_whole(open_tower: OpenTower) -> None:
    for _, make in SERVERS:
        tower = await open_tower(make)
        start = emoji_start()
        text, _ = await tower.run(job(start, max_tokens=60))
        assert TOY.shown(TOY.generate(TOY.tokenize(start), 300)).startswith(text)
        assert EMOJI in text


async def test_a_text_is_taken_over_at_any_place(open_tower: OpenTower) -> None:
    tower, start = await open_tower(), emoji_start()
    whole = text_of(start)
    first = next(cut for cut in range(len(whole)) if EMOJI in TOY.shown(whole[:cut]))
    for cut in range(first - 4, first + 2):
        text, _ = await tower.run(job(start, f"cut-{cut}", max_tokens=60, resume=whole[:cut], attempt=2))
        told = TOY.shown(whole[:cut]).split("\ufffd")[0]
        assert told + text == TOY.shown(whole)


async def test_a_conversation(open_tower: OpenTower) -> None:
    tower = await open_tower()
    rendered = TOY.tokenize(TOY.render([{"role": "user", "content": "hi"}]), special=True)
    text, _ = await tower.run(job(prompt=chat("hi"), max_tokens=30))
    assert text == TOY.shown(TOY.generate(rendered, 30))


async def test_other_ways_to_choose_are_passed_through(open_tower: OpenTower) -> None:
    tower = await open_tower()
    sampling = Sampling(temperature=0.8, seed=77)
    text, end = await tower.run(job("once upon", sampling=sampling, max_tokens=40))
    assert text == TOY.shown(TOY.generate(TOY.tokenize("once upon"), 40, seed=77))
    assert isinstance(end, JobFinished)
    assert end.seed == 77
    streams = [seen.body for seen in tower.server.seen if seen.body and seen.body.get("seed") == 77]
    assert len(streams) == 1, "in one stream"
    await tower.run(job("once", "job-2", grammar=Grammar(kind=GrammarKind.JSON), max_tokens=5))
    assert tower.server.bodies("/completions")[-1]["response_format"] == {"type": "json_object"}


async def test_stops_and_limits_are_kept_here(open_tower: OpenTower) -> None:
    tower = await open_tower()
    whole = TOY.shown(text_of("once upon"))
    stop = whole[20:23]
    text, end = await tower.run(job("once upon", max_tokens=60, stop=[stop]))
    assert text == whole[: whole.index(stop)]
    assert isinstance(end, JobFinished)
    assert end.stop == stop
    for limit in (1, 2, 5):
        _, end = await tower.run(job("once upon", f"limit-{limit}", max_tokens=limit))
        assert isinstance(end, JobFinished)
        assert end.stats.completion_tokens == limit


async def test_what_it_cannot_do_is_refused(open_tower: OpenTower) -> None:
    tower = await open_tower()
    _, end = await tower.run(job(logprobs=2))
    assert isinstance(end, Failure)
    assert (end.code, end.field) == (FailureCode.UNSUPPORTED, "logprobs")
    _, end = await tower.run(job(name="job-3", prompt=msgspec.structs.replace(chat("hi"), truncate=True)))
    assert isinstance(end, Failure)
    assert (end.code, end.field) == (FailureCode.UNSUPPORTED, "truncation")
    _, end = await tower.run(job("a " * 5000, "job-2"))
    assert isinstance(end, Failure)
    assert end.code is FailureCode.CONTEXT_OVERFLOW
    tower = await open_tower(echoing)
    _, end = await tower.run(job(prompt=chat("hi")))
    assert isinstance(end, Failure)
    assert end.code is FailureCode.UNSUPPORTED
    _, end = await tower.run(job(prompt=Prompt(tokens=[1, 2]), name="job-2"))
    assert isinstance(end, Failure)


async def test_many_sessions_at_once(open_tower: OpenTower) -> None:
    tower = await open_tower()
    jobs = [job(f"once {number}", f"job-{number}", max_tokens=30) for number in range(12)]
    results = await asyncio.gather(*(tower.run(one) for one in jobs))
    for one, (text, end) in zip(jobs, results, strict=True):
        assert text == TOY.shown(TOY.generate(TOY.tokenize(one.prompt.text or ""), 30))
        assert isinstance(end, JobFinished)


async def test_a_guessed_end_that_was_never_met_before_ends_the_text(open_tower: OpenTower) -> None:
    pairs = ([one, other] for one in TOY.words for other in TOY.words)
    start = next(pair for pair in pairs if 8 <= len(TOY.generate(pair, 60)) < 40)
    whole = TOY.generate(start, 60)
    beyond = [TOY.control["<|im_end|>"]]
    while len(beyond) < 6:
        beyond.append(TOY.next([*whole, *beyond]))
    tower = await open_tower()
    repeating = Prompt(tokens=[*start, *whole, *beyond, *start])
    for name in ("first", "second"):
        text, end = await tower.run(job("", name, prompt=repeating, max_tokens=60, speculation=Speculation(window=8)))
        assert isinstance(end, JobFinished)
        assert (text, end.reason) == (TOY.shown(whole), FinishReason.STOP)
        assert end.stats.completion_tokens == len(whole)


async def test_an_end_that_is_to_be_ignored_is_a_token_like_others(open_tower: OpenTower) -> None:
    pairs = ([one, other] for one in TOY.words for other in TOY.words)
    start = next(pair for pair in pairs if 8 <= len(TOY.generate(pair, 60)) < 40)
    whole, ending = TOY.generate(start, 60), TOY.control["<|im_end|>"]
    tower = await open_tower()
    for name, before in (("unlikely", whole[:4]), ("likely", whole)):
        tower.server.script = [*before, ending, *TOY.words[:4]]
        asked = job("", name, prompt=Prompt(tokens=start), max_tokens=len(before) + 4, ignore_eos=True)
        text, end = await tower.run(asked)
        assert text == TOY.shown(before) + "<|im_end|>" + TOY.shown(TOY.words[:3])
        assert isinstance(end, JobFinished)
        assert end.reason is FinishReason.LENGTH
        tower.server.script = None
        beyond = [ending, *TOY.generate([whole[-1], ending], 4)]
        repeating = Prompt(tokens=[*start, *whole, *beyond, *start])
        asked = job("", f"after-{name}", prompt=repeating, max_tokens=60, speculation=Speculation(window=8))
        text, _ = await tower.run(asked)
        assert text == TOY.shown(whole)


@pytest.mark.parametrize("make", [FakeVllm])
async def test_a_given_answer_is_judged_by_its_chances(open_tower: OpenTower, make: Callable[[], OpenAiServer]) -> None:
    tower = await open_tower(make)
    truth = TOY.shown(TOY.generate(TOY.tokenize("once upon"), 12))
    for number, text in enumerate((truth, truth.replace(truth.split()[2], "fish", 1))):
        asked = job("once upon", f"judged-{number}", max_tokens=100, judge=Judge(text=text, ends=True))
        said, end = await tower.run(asked)
        assert isinstance(end, JobFinished)
        assert said.strip() == text.strip()
        scores = [score for event in tower.ear.of(TokensAccepted) if event.job == asked.job for score in event.scores]
        assert len(scores) == len(TOY.tokenize(text))
        assert any(score.gap > 1.0 for score in scores) == (text != truth)
        assert end.end_score is not None
        assert end.end_score.gap > 1.0, "the model would go on"


async def test_an_answer_of_a_sampled_text_is_not_judged(open_tower: OpenTower) -> None:
    tower = await open_tower()
    _, end = await tower.run(job("once upon", judge=Judge(text=" a"), sampling=Sampling(temperature=0.8)))
    assert isinstance(end, Failure)
    assert end.code is FailureCode.UNSUPPORTED
