"""Remote servers as targets: the texts are those that the server alone would write, in fewer requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pytest

from tests.backends.fakes.gpu_servers import FakeSglang, FakeVllm
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import EMOJI, TOY
from tests.backends.listener import MODEL, Listener, chat, ctx, job
from tests.backends.rigs import echoing
from tests.waiting import until
from twd.backends.clients.base import Backend
from twd.backends.clients.detection import open_backend
from twd.backends.verifier.model import open_verifying
from twd.bus.memory.bus import MemoryBroker
from twd.settings.model import ServerConfig as ServerSettings
from twd.settings.model import Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.source import ReadySource
from twd.supervisor.remote_target import RemoteModel
from twd.wire.base import InstanceId, JobId, ModelId, NodeId
from twd.wire.draft import DrafterAttached, SessionOpened
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import (
    FinishReason,
    Grammar,
    GrammarKind,
    JobCancelled,
    JobFinished,
    JobSubmitted,
    Judge,
    Prompt,
    Sampling,
    Speculation,
    TokensAccepted,
)
from twd.wire.model import ModelFailed, ModelReady, VocabFingerprint

SERVERS: list[tuple[str, Callable[[], OpenAiServer]]] = [("vllm", FakeVllm), ("sglang", FakeSglang), ("echo", echoing)]
LOOPING = " now and then and now and then and now and then and now and then"


@dataclass
class Tower:
    """A real speculator whose target is a fake server."""

    server: OpenAiServer
    ear: Listener
    speculator: SpeculatorService

    async def run(self, asked: JobSubmitted) -> tuple[str, JobFinished | Failure]:
        """A job to its end."""
        await self.ear.submit(asked)
        await until(lambda: bool(self.ear.ends(asked.job)), timeout_s=20)
        return "".join(event.text for event in self.ear.of(TokensAccepted, asked.job)), self.ear.end(asked.job)


OpenTower = Callable[..., Awaitable[Tower]]


@pytest.fixture
async def open_tower(farm: Farm) -> AsyncIterator[OpenTower]:
    """Opens towers; closes them at the end of the test."""
    towers: list[Tower] = []

    async def open_one(make: Callable[[], OpenAiServer] = FakeVllm, *, timeout_s: float = 2.0) -> Tower:
        broker, server = MemoryBroker(), make()
        await farm.add(server)
        settings = ServerSettings(url=server.url, timeout_s=timeout_s)
        ear = Listener(broker)
        await ear.listen()
        speculator = SpeculatorService(
            ctx(broker, 2),
            MODEL,
            ReadySource(lambda progress: cast(Any, RemoteModel(open_verifying(settings, MODEL), Settings(), MODEL))),
        )
        await speculator.start()
        await until(lambda: bool(ear.of(ModelReady) or ear.of(ModelFailed)), timeout_s=20)
        towers.append(Tower(server, ear, speculator))
        return towers[-1]

    yield open_one
    for tower in towers:
        tower.server.release.set()
        await tower.speculator.stop()
        assert tower.speculator.fault is None


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
        start = _emoji_start()
        text, _ = await tower.run(job(start, max_tokens=60))
        assert TOY.shown(TOY.generate(TOY.tokenize(start), 300)).startswith(text)
        assert EMOJI in text


def _emoji_start() -> str:
    return next(f"{w} it" for w in ("one", "two", "now", "who") if EMOJI in TOY.shown(_text_of(f"{w} it")))


async def test_a_text_is_taken_over_at_any_place(open_tower: OpenTower) -> None:
    tower, start = await open_tower(), _emoji_start()
    whole = _text_of(start)
    first = next(cut for cut in range(len(whole)) if EMOJI in TOY.shown(whole[:cut]))
    for cut in range(first - 4, first + 2):
        text, _ = await tower.run(job(start, f"cut-{cut}", max_tokens=60, resume=whole[:cut], attempt=2))
        told = TOY.shown(whole[:cut]).split("\ufffd")[0]
        assert told + text == TOY.shown(whole)


async def test_what_cannot_be_read_ends_its_own_job(open_tower: OpenTower) -> None:
    tower, start = await open_tower(), _emoji_start()
    await tower.run(job(start, "warm", max_tokens=60))
    tower.server.faults.mode, tower.server.faults.only = "500", "detokenize"
    for asked in (
        job(start, "emoji", max_tokens=60),
        job(start, "taken-over", max_tokens=60, resume=[TOY.tokenize("z")[0]], attempt=2),
    ):
        _, end = await tower.run(asked)
        assert isinstance(end, Failure)
        assert end.code is FailureCode.BACKEND_BROKEN
    tower.server.faults.mode = ""
    text, _ = await tower.run(job(start, "later", max_tokens=60))
    assert text == TOY.shown(_text_of(start))


@pytest.mark.parametrize("mode", ["500", "hang"])
async def test_a_prompt_that_cannot_be_told_to_a_drafter_by_text_is_left_out(
    open_tower: OpenTower, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.backends.verifier.prompt_texts.KEPT_MAX", 1)
    tower = await open_tower(timeout_s=60)
    await tower.run(job("once upon", "warm", max_tokens=10))
    await tower.run(job("another", "warm too", max_tokens=1))
    await tower.ear.registers(_by_text().drafter)
    await tower.ear.publish(_by_text())
    await until(lambda: bool(tower.speculator.facts().drafters) and tower.speculator._idle.is_set())
    tower.server.faults.mode, tower.server.faults.only = mode, "detokenize"
    text, _ = await tower.run(job("once upon", max_tokens=3))
    assert text == TOY.shown(TOY.generate(TOY.tokenize("once upon"), 3))
    (opened,) = tower.ear.of(SessionOpened, "job-1")
    assert opened.text == ""


async def test_a_drafter_by_text_is_told_the_prompt(open_tower: OpenTower) -> None:
    tower = await open_tower()
    await tower.ear.registers(_by_text().drafter)
    await tower.ear.publish(_by_text())
    await until(lambda: bool(tower.speculator.facts().drafters) and tower.speculator._idle.is_set())
    for number in range(2):  # whoever asks first may be too early
        await tower.run(job("once upon", f"job-{number}", max_tokens=3))
    (opened,) = tower.ear.of(SessionOpened, "job-1")
    assert opened.text == "once upon"


def _by_text() -> DrafterAttached:
    vocab = VocabFingerprint(hash="", tokens=0, kind="")
    return DrafterAttached(
        drafter=InstanceId("drafter.far.x"), node=NodeId("far"), model=ModelId("small"), vocab=vocab, by_text=True
    )


def _text_of(start: str) -> list[int]:
    return TOY.generate(TOY.tokenize(start), 60)


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
    whole = TOY.shown(_text_of("once upon"))
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


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("500", FailureCode.BACKEND_BROKEN),
        ("502", FailureCode.BACKEND_DOWN),
        ("hang", FailureCode.DEADLINE),
        ("broken_json", FailureCode.BACKEND_BROKEN),
        ("die", FailureCode.BACKEND_BROKEN),
        ("stall", FailureCode.DEADLINE),
    ],
)
async def test_trouble_ends_a_job_and_not_the_target(open_tower: OpenTower, mode: str, code: FailureCode) -> None:
    tower = await open_tower(timeout_s=0.3)
    tower.server.faults.mode, tower.server.faults.only = mode, "completions"
    _, end = await tower.run(job("once upon", max_tokens=40))
    assert isinstance(end, Failure)
    assert end.code is code
    tower.server.faults.mode = ""
    text, end = await tower.run(job("once upon", "job-2", max_tokens=40))
    assert isinstance(end, JobFinished)
    assert text == TOY.shown(TOY.generate(TOY.tokenize("once upon"), 40))


async def test_a_cancelled_session_hangs_up(open_tower: OpenTower) -> None:
    tower = await open_tower(timeout_s=20)
    tower.server.hold_after = 5
    asked = job("once upon", max_tokens=200, speculation=Speculation(enabled=False), deadline_ms=200)
    await tower.ear.submit(asked)
    await until(lambda: tower.server.streaming == 1)
    await until(lambda: bool(tower.ear.ends(asked.job)), timeout_s=10)
    await until(lambda: tower.server.cut_off == 1, "the server would write on for ever", timeout_s=10)


async def test_one_request_that_hangs_holds_up_nobody_else(open_tower: OpenTower) -> None:
    tower = await open_tower(timeout_s=60)
    server = tower.server
    await tower.run(job("once upon", "warm", max_tokens=30))
    server.faults.mode, server.faults.only, server.faults.times = "hang", "completions", 1
    await tower.ear.submit(job("who it", "hung", max_tokens=30))
    await until(lambda: server.streaming == 1)
    text, _ = await tower.run(job("once upon", "other", max_tokens=30))
    assert text == TOY.shown(TOY.generate(TOY.tokenize("once upon"), 30))
    await tower.ear.publish(JobCancelled(job=JobId("hung"), reason="enough"))
    await until(lambda: bool(tower.ear.ends("hung")), timeout_s=20)
    await until(lambda: server.cut_off == 1, timeout_s=20)


async def test_a_server_that_cannot_score_is_no_target(farm: Farm) -> None:
    server = OpenAiServer()
    await farm.add(server)
    with pytest.raises(TwdError, match="passed through") as caught:
        await asyncio.to_thread(open_verifying, ServerSettings(url=server.url), MODEL)
    assert caught.value.code is FailureCode.UNSUPPORTED
    with pytest.raises(TwdError) as caught:
        await asyncio.to_thread(open_verifying, ServerSettings(url="http://127.0.0.1:9"), MODEL)
    assert caught.value.code is FailureCode.BACKEND_DOWN


async def test_a_server_that_fails_while_it_is_measured_is_hung_up_on(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await farm.add(server := echoing())
    opened: list[Backend] = []

    async def open_and_keep(*args: Any, **options: Any) -> Backend:
        opened.append(await open_backend(*args, **options))
        return opened[-1]

    async def fails(*_: object) -> None:
        raise TwdError(FailureCode.BACKEND_DOWN, "it went away")

    monkeypatch.setattr("twd.backends.verifier.model.open_backend", open_and_keep)
    monkeypatch.setattr("twd.backends.verifier.model.measure", fails)
    with pytest.raises(TwdError, match="it went away"):
        await asyncio.to_thread(open_verifying, ServerSettings(url=server.url), MODEL)
    assert opened[0].upstream._session is None


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
