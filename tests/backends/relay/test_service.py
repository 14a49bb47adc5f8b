"""The relay on the bus: jobs in, text out as it comes, one clear end, whatever the server does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest

from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import TOY
from tests.backends.listener import MODEL, Listener, chat, ctx, job
from tests.waiting import until
from twd.backends.clients.base import Backend
from twd.backends.clients.openai_compatible import OpenAiClient
from twd.backends.clients.upstream import UpstreamServer
from twd.backends.relay import service as relay_module
from twd.backends.relay.service import RelayService
from twd.bus.memory.bus import MemoryBroker
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    FinishReason,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStarted,
    Sampling,
    TokensAccepted,
)
from twd.wire.model import ModelFailed, ModelReady
from twd.wire.service import Health


@dataclass
class Street:
    """A relay between the bus and a fake server."""

    server: OpenAiServer
    relay: RelayService
    ear: Listener


async def open_street(farm: Farm, *, started: bool = True, cooldown_s: float = 0.2) -> Street:
    """Everything up, or everything but the server's answers."""
    broker, server = MemoryBroker(), OpenAiServer()
    await farm.add(server)
    if not started:
        server.faults.mode = "503"

    async def open_backend() -> Backend:
        return OpenAiClient(UpstreamServer(server.url, timeout_s=0.4))

    ear = Listener(broker)
    await ear.listen()
    relay = RelayService(ctx(broker, 2), MODEL, open_backend, cooldown_s=cooldown_s)
    await relay.start()
    if started:
        await until(lambda: bool(ear.of(ModelReady)))
    return Street(server, relay, ear)


@pytest.fixture
async def street(farm: Farm) -> AsyncIterator[Street]:
    """A relay that is ready."""
    street = await open_street(farm)
    yield street
    street.server.release.set()
    await street.relay.stop()
    assert street.relay.fault is None


async def test_a_job_from_its_submission_to_its_end(street: Street) -> None:
    text, end = await street.ear.run(job("once upon", max_tokens=30))
    wanted = TOY.generate(TOY.tokenize("once upon"), 30)
    assert text == TOY.shown(wanted)
    assert isinstance(end, JobFinished)
    assert end.stats.completion_tokens == len(wanted)
    assert end.stats.prompt_tokens == len(TOY.tokenize("once upon"))
    assert end.seed == 7
    (started,) = street.ear.of(JobStarted)
    assert started.session == end.session
    pieces = [one for one in TOY.show(wanted) if one.text]
    assert 1 <= len(street.ear.of(TokensAccepted)) <= len(pieces), "what came together is told together"


async def test_a_text_that_nobody_reads_before_its_end_travels_in_one_piece(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "GATHER_S", 3600.0)
    text, end = await street.ear.run(job("once upon", max_tokens=30, whole=True))
    wanted = TOY.generate(TOY.tokenize("once upon"), 30)
    assert text == TOY.shown(wanted)
    assert isinstance(end, JobFinished)
    assert end.stats.completion_tokens == len(wanted)
    assert len(street.ear.of(TokensAccepted)) == 1


async def test_a_conversation_with_stops(street: Street) -> None:
    street.server.script = TOY.tokenize(" one two now many")
    stops = ["zz", "yy", "xx", "ww", "o n", "w m"]
    text, end = await street.ear.run(job(prompt=chat("hi"), stop=stops))
    assert text == " one tw"
    assert isinstance(end, JobFinished)
    assert end.stop == "o n"
    assert street.server.bodies("/completions")[-1]["stop"] == stops[:4], "the fifth was watched for here"
    await until(lambda: street.server.streaming == 0)


async def test_it_says_what_it_is(street: Street) -> None:
    (ready,) = street.ear.of(ModelReady)
    assert (ready.facts.model, ready.facts.backend, ready.facts.can_verify) == (MODEL, "openai", False)
    assert "passed through" in ready.facts.note
    facts = street.relay.facts()
    assert facts.ready is True
    assert facts.upstream_model == "toy"
    assert facts.can_verify is False
    assert "passed through" in street.relay.note


async def test_the_first_piece_does_not_wait_for_the_second(street: Street) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 1
    await street.ear.submit(job())
    await until(lambda: street.ear.text("job-1") == TOY.text(TOY.words[:1]))
    assert not street.ear.ends("job-1")
    street.server.release.set()
    await until(lambda: bool(street.ear.ends("job-1")))
    assert street.ear.text("job-1") == TOY.text(TOY.words[:6])


async def test_a_cancelled_job_hangs_up(street: Street) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 1
    await street.ear.submit(job())
    await until(lambda: bool(street.ear.text("job-1")))
    await street.ear.publish(JobCancelled(job=job().job, reason="the client left"))
    await until(lambda: street.server.cut_off == 1)
    end = street.ear.end("job-1")
    assert isinstance(end, Failure)
    assert end.code is FailureCode.CANCELLED
    assert street.relay.facts().sessions == 0
    assert street.relay.facts().breaker == "closed"


async def test_only_attempts_that_are_meant_are_cancelled(street: Street) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 1
    await street.ear.submit(job(attempt=2))
    await street.ear.publish(JobCancelled(job=job().job, attempts=1))
    street.server.release.set()
    await until(lambda: bool(street.ear.ends("job-1")))
    assert isinstance(street.ear.end("job-1"), JobFinished)


async def test_a_newer_attempt_takes_over(street: Street) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 1
    await street.ear.submit(job())
    await until(lambda: bool(street.ear.text("job-1")))
    street.ear.events.clear()
    street.server.hold_after = None
    text, end = await street.ear.run(job(attempt=2))
    assert text == TOY.text(TOY.words[:6])
    assert isinstance(end, JobFinished)
    assert end.attempt == 2
    await until(lambda: street.server.cut_off == 1)


async def test_what_comes_again_or_too_late_changes_nothing(street: Street) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 1
    await street.ear.submit(job(attempt=2))
    await until(lambda: bool(street.ear.text("job-1")))
    for attempt in (2, 1):
        await street.ear.submit(job(attempt=attempt))
    street.server.release.set()
    await until(lambda: bool(street.ear.ends("job-1")))
    assert [event.attempt for event in street.ear.of(JobStarted)] == [2]
    assert len(street.server.bodies("/completions")) == 1
    assert street.ear.text("job-1") == TOY.text(TOY.words[:6])


async def test_many_jobs_at_once(street: Street) -> None:
    jobs = [job(f"text {number}", f"job-{number}", max_tokens=20) for number in range(20)]
    results = await asyncio.gather(*(street.ear.run(one) for one in jobs))
    for number, (text, end) in enumerate(results):
        assert text == TOY.shown(TOY.generate(TOY.tokenize(f"text {number}"), 20))
        assert isinstance(end, JobFinished)


async def test_silence_of_the_server_is_no_silence_of_the_relay(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 2
    await street.ear.submit(job())
    begun = TOY.shown(street.server.script[:2])
    await until(lambda: "".join(one.text for one in street.ear.of(TokensAccepted)) == begun)
    told = len(street.ear.of(TokensAccepted))
    monkeypatch.setattr("twd.backends.relay.core.KEEPALIVE_S", 0.0)
    street.relay.run_effects(street.relay.tick(street.relay.clock.now()))
    await until(lambda: len(street.ear.of(TokensAccepted)) > told)
    sign = street.ear.of(TokensAccepted)[told]
    assert (sign.text, sign.index, sign.tokens) == ("", told, [])


# -- failures ----------------------------------------------------------------------------------

FAULTS = [
    ("500", FailureCode.BACKEND_BROKEN),
    ("502", FailureCode.BACKEND_DOWN),
    ("hang", FailureCode.DEADLINE),
    ("hang_up", FailureCode.BACKEND_DOWN),
    ("broken_json", FailureCode.BACKEND_BROKEN),
    ("html", FailureCode.BACKEND_BROKEN),
    ("redirect", FailureCode.BACKEND_BROKEN),
    ("huge", FailureCode.BACKEND_BROKEN),
    ("stall", FailureCode.DEADLINE),
    ("die", FailureCode.BACKEND_BROKEN),
    ("rubbish", FailureCode.BACKEND_BROKEN),
    ("error", FailureCode.BACKEND_BROKEN),
    ("mute", FailureCode.BACKEND_BROKEN),
    ("503", FailureCode.BUSY),
]


@pytest.mark.parametrize(("mode", "code"), FAULTS, ids=[mode for mode, _ in FAULTS])
async def test_each_fault_is_one_clear_failure(
    street: Street, mode: str, code: FailureCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "pauses", lambda tries: [0.0] * tries)
    street.server.faults.mode = mode
    _, end = await street.ear.run(job(prompt=chat("hi")))
    assert isinstance(end, Failure)
    assert end.code is code
    assert street.server.url.removeprefix("http://") in end.message
    street.server.faults.mode = ""
    text, end = await street.ear.run(job(name="job-2"))
    assert isinstance(end, JobFinished), "other jobs do not notice"
    assert text


async def test_a_request_that_never_arrived_is_tried_again(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "pauses", lambda tries: [0.0] * tries)
    street.server.faults.mode, street.server.faults.times = "502", 2
    text, end = await street.ear.run(job())
    assert isinstance(end, JobFinished)
    assert text
    assert len(street.server.bodies("/completions")) == 3


async def test_a_text_that_was_begun_is_never_begun_again(street: Street) -> None:
    street.server.faults.mode = "die"
    text, end = await street.ear.run(job())
    assert text
    assert isinstance(end, Failure)
    assert len(street.server.bodies("/completions")) == 1


async def test_a_deadline_ends_a_job_and_hangs_up(street: Street) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 2
    text, end = await street.ear.run(job(deadline_ms=60))
    assert isinstance(end, Failure)
    assert end.code is FailureCode.DEADLINE
    assert "0.06 s" in end.message
    assert text == TOY.text(TOY.words[:2])
    await until(lambda: street.server.cut_off == 1)


async def test_a_server_that_fails_is_left_alone_and_tried_again(farm: Farm) -> None:
    street = await open_street(farm, cooldown_s=60)
    street.server.faults.mode, street.server.faults.only = "500", "completions"
    for number in range(3):
        await street.ear.run(job(name=f"job-{number}"))
    assert street.relay.health is Health.DEGRADED
    assert street.relay.facts().breaker == "open"
    asked = len(street.server.seen)
    answer = await street.ear.submit(job(name="job-4"))
    assert isinstance(answer, JobFailed)
    assert answer.failure.code is FailureCode.BACKEND_DOWN
    assert "left alone for 60 s" in answer.failure.message
    assert len(street.server.seen) == asked
    street.server.faults.mode = ""
    street.relay._breaker._open_until = street.relay.clock.now()
    _, end = await street.ear.run(job(name="job-5"))
    assert isinstance(end, JobFinished)
    assert street.relay.facts().breaker == "closed"
    await street.relay.stop()


async def test_a_bad_request_is_nobodys_fault_but_its_own(street: Street) -> None:
    for number in range(5):
        _, end = await street.ear.run(job("a " * 5000, f"job-{number}"))
        assert isinstance(end, Failure)
        assert end.code is FailureCode.CONTEXT_OVERFLOW
    assert street.relay.facts().breaker == "closed"


async def test_what_cannot_be_passed_on_is_refused(street: Street) -> None:
    answer = await street.ear.submit(job(resume=[1, 2]))
    assert isinstance(answer, JobFailed)
    assert answer.failure.code is FailureCode.UNSUPPORTED
    answer = await street.ear.submit(job(prompt=msgspec.structs.replace(chat("hi"), truncate=True)))
    assert isinstance(answer, JobFailed)
    assert (answer.failure.code, answer.failure.field) == (FailureCode.UNSUPPORTED, "truncation")
    _, end = await street.ear.run(job(sampling=Sampling(seed=1, repeat_penalty=1.5)))
    assert isinstance(end, Failure)
    assert (end.code, end.field) == (FailureCode.UNSUPPORTED, "repeat_penalty")


async def test_a_server_that_comes_late(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "PROBE_S", 0.01)
    street = await open_street(farm, started=False)
    await until(lambda: bool(street.ear.of(ModelFailed)))
    answer = await street.ear.submit(job())
    assert isinstance(answer, JobFailed)
    assert answer.failure.code is FailureCode.BACKEND_DOWN
    assert "503" in answer.failure.message
    assert street.relay.facts().ready is False
    street.server.faults.mode = ""
    await until(lambda: bool(street.ear.of(ModelReady)))
    assert isinstance((await street.ear.run(job(name="job-2")))[1], JobFinished)
    assert len(street.ear.of(ModelFailed)) == 1, "told once"
    await street.relay.stop()


async def test_draining_finishes_what_is_in_hand(street: Street) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 2
    await street.ear.submit(job())
    await until(lambda: bool(street.ear.text("job-1")))
    draining = asyncio.ensure_future(street.relay.drain(5.0))  # noqa: TID251 - a hand of the test
    await until(lambda: street.relay._draining)
    answer = await street.ear.submit(job(name="job-2"))
    assert isinstance(answer, JobFailed)
    assert answer.failure.code is FailureCode.DRAINING
    street.server.release.set()
    await draining
    end = street.ear.end("job-1")
    assert isinstance(end, JobFinished)
    assert end.reason is FinishReason.STOP


async def test_stopping_fails_what_is_in_hand(street: Street) -> None:
    street.server.script, street.server.hold_after = list(TOY.words[:6]), 2
    answer = await street.ear.submit(job())
    assert isinstance(answer, JobQueued)
    await until(lambda: bool(street.ear.text("job-1")))
    await street.relay.stop()
    end = street.ear.end("job-1")
    assert isinstance(end, Failure)
    assert end.code is FailureCode.WORKER_LOST
    await until(lambda: street.server.cut_off == 1)
