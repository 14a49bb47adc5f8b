"""Clients that leave, workers that die, limits that are reached, an edge that drains."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.edge.conftest import House, OpenHouse, ctx
from tests.edge.fake_speculator import MODEL, WORDS, FakeSpeculator, Script
from tests.waiting import until
from twd.bus.base import PAYLOAD_BYTES_MAX
from twd.edge.inflight_requests import RequestTracker
from twd.kit.clock import SystemClock
from twd.kit.jobs.owner import OwnerPolicy
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import JobCancelled, JobSubmitted, Prompt, Sampling, TokensAccepted
from twd.wire.life import ChangeStep, ChangeTold

TEXT = "".join(WORDS)
HANGS: Any = {"hang_after": 2}


async def read_until(response: aiohttp.ClientResponse, text: bytes) -> bytes:
    """Read a stream until `text` has come."""
    seen = b""
    async with asyncio.timeout(5):
        while text not in seen:
            piece = await response.content.readany()
            assert piece, seen
            seen += piece
    return seen


def content(stream: bytes) -> str:
    """The text of a chat stream."""
    lines = [line[6:] for line in stream.decode().split("\n") if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line).get("choices", [])]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_its_job(open_house: OpenHouse, stream: bool) -> None:
    house = await open_house(Script(**HANGS))
    asked = asyncio.ensure_future(house.chat(stream=stream))  # noqa: TID251 - a client of the test
    await until(lambda: len(house.edge.tracker) == 1)
    if stream:
        (await asked).close()
    else:
        asked.cancel()
    async with asyncio.timeout(2):
        await house.speculator.cancel_heard.wait()
    assert list(house.speculator.cancelled) == [house.speculator.jobs[0].job]
    assert len(house.edge.tracker) == 0


async def test_silence_is_filled_with_comments(open_house: OpenHouse) -> None:
    house = await open_house(Script(**HANGS), keepalive_s=0.02)
    response = await house.chat(stream=True)
    seen = await read_until(response, b": keep-alive\n\n: keep-alive\n\n")
    assert content(seen) == "Hello"
    house.speculator.release.set()
    rest = await response.read()
    assert content(seen + rest) == TEXT


async def test_a_client_that_is_shown_nothing_of_what_comes_is_kept_too(open_house: OpenHouse) -> None:
    words = ["<function=note><parameter=text>", *["word "] * 40, "</parameter></function>"]
    house = await open_house(Script(words=words, per_event=1, pause_s=0.01), keepalive_s=0.05)
    response = await house.chat(stream=True, tools=[{"type": "function", "function": {"name": "note"}}])
    begun, _, rest = (await response.read()).partition(b'"name":"note"')
    assert b": keep-alive" in begun + rest
    assert b'"finish_reason":"tool_calls"' in rest


async def test_a_long_queue_keeps_the_stream_alive_too(open_house: OpenHouse) -> None:
    house = await open_house(keepalive_s=0.02)
    house.speculator.silent = True
    response = await house.chat(stream=True)
    assert response.status == 200
    await read_until(response, b": keep-alive\n\n")
    response.close()


async def test_a_deadline_ends_the_job(open_house: OpenHouse) -> None:
    house = await open_house(Script(**HANGS))
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(house.chat(twd={"deadline_s": 600}))
        await until(lambda: any(line.owner.place == 2 for line in house.edge.tracker._lines.values()))
        (line,) = house.edge.tracker._lines.values()
        line.owner._deadline = 0.0
        house.edge.tracker._tick(line)
    response = asking.result()
    assert response.status == 504
    assert "2 tokens came" in (await response.json())["error"]["message"]
    streamed = await house.chat(twd={"deadline_s": 0.05}, stream=True)
    raw = await streamed.text()
    assert '"timeout_error"' in raw
    assert raw.endswith("data: [DONE]\n\n")


async def test_another_worker_goes_on_where_the_first_died(open_house: OpenHouse) -> None:
    house = await open_house(Script(**HANGS))
    response = await house.chat(stream=True, seed=3)
    seen = await read_until(response, b"Hel")
    first, successor = house.speculator, FakeSpeculator(ctx(house.broker, 9))
    await first.stop()
    await successor.start()
    house.speculator = successor
    rest = await response.read()
    assert content(seen + rest) == TEXT
    assert [job.resume for job in successor.jobs] == [[0, 1]]
    assert successor.jobs[0].sampling.seed == 3
    assert successor.jobs[0].created_ms == first.jobs[0].created_ms
    assert b'"workers_replaced":1' in rest
    assert rest.count(b'"finish_reason":"stop"') == 1


async def test_nobody_home(open_house: OpenHouse) -> None:
    house = await open_house()
    house.edge.tracker._policy = OwnerPolicy(patience_s=0.05, backoff_s=0.02)
    await house.speculator.stop()
    response = await house.chat(model="small")
    assert response.status in (404, 503)
    settings_house = await open_house()
    settings_house.edge.tracker._policy = OwnerPolicy(patience_s=0.05, backoff_s=0.02)
    settings_house.edge.models.configured = ("big",)
    waiting = await settings_house.chat(model="big")
    error = (await waiting.json())["error"]
    assert waiting.status == 503
    assert error["code"] == "nobody_home"
    assert "big" in error["message"]
    assert waiting.headers["Retry-After"]


async def test_a_model_that_takes_anothers_place_is_waited_for(open_house: OpenHouse) -> None:
    house = await open_house()
    house.edge.tracker._policy = OwnerPolicy(patience_s=0.05, backoff_s=0.02)
    await house.speculator.stop()
    await until(lambda: house.edge.models.live == [])
    told = ChangeTold(node=NodeId("n"), change="c", step=ChangeStep.DRAINING, models=[MODEL], default=MODEL, at_ms=1)
    house.edge.on_change_told(told)
    successor = FakeSpeculator(ctx(house.broker, 9))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(house.chat(model="default"))
        await until(lambda: any(line.owner.attempt > 3 for line in house.edge.tracker._lines.values()))
        await successor.start()
    assert waiting.result().status == 200
    await successor.stop()
    house.edge.on_change_told(msgspec.structs.replace(told, step=ChangeStep.FAILED, at_ms=2))
    assert not house.edge.models.coming(MODEL)
    assert (await house.chat(model="default")).status == 503


async def test_busy_speculators_are_429(open_house: OpenHouse) -> None:
    house = await open_house(Script(refuse=Failure(code=FailureCode.BUSY, message="queue full")))
    house.edge.tracker._policy = OwnerPolicy(patience_s=0.05, backoff_s=0.02)
    response = await house.chat()
    assert response.status == 429
    assert response.headers["Retry-After"] == "1"


async def test_a_worker_that_cannot_read_the_job_is_502_at_once(open_house: OpenHouse) -> None:
    house = await open_house(Script(unreadable="Expected `int` >= 1 - at `$.deadline_ms`"))
    async with asyncio.timeout(2):
        response = await house.chat()
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (502, "backend_broken")
    assert "$.deadline_ms" in error["message"]
    assert len(house.speculator.jobs) == 1


async def test_too_many_requests_at_once(open_house: OpenHouse) -> None:
    house = await open_house(Script(**HANGS), max_queue=2)
    first = await house.chat(stream=True, n=2)
    refused = await house.chat()
    assert refused.status == 429
    assert "max_queue" in (await refused.json())["error"]["message"]
    house.speculator.release.set()
    await first.read()
    assert (await house.chat()).status == 200


async def test_bodies_are_counted_while_they_come(open_house: OpenHouse) -> None:
    house = await open_house(max_body_size=1000)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 400

    for body in (b"x" * 1001, endless()):
        response = await house.http.post(house.edge.url + "/v1/chat/completions", data=body)
        assert response.status == 413
        assert "1000 bytes" in (await response.json())["error"]["message"]


async def test_a_prompt_over_the_limit_of_the_broker_is_told_as_such(house: House) -> None:
    async with asyncio.timeout(2):
        response = await house.chat(messages=[{"role": "user", "content": "x" * PAYLOAD_BYTES_MAX}])
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (413, "too_large")
    assert str(PAYLOAD_BYTES_MAX) in error["message"]
    assert "twd.v1" not in error["message"]


async def test_a_worker_that_does_not_answer_is_told_in_the_clients_words(house: House) -> None:
    house.edge.tracker._policy = OwnerPolicy(answer_s=0.01, patience_s=0.0)
    house.speculator.silent = True
    response = await house.chat()
    assert response.status == 502
    assert (await response.json())["error"]["message"] == "the process that serves 'small' does not answer"


async def test_a_body_that_does_not_come(open_house: OpenHouse) -> None:
    house = await open_house(read_timeout_s=0.05)

    async def stalls() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    response = await house.http.post(house.edge.url + "/v1/chat/completions", data=stalls())
    assert response.status == 408


async def test_drain_finishes_streams_and_refuses_new_ones(open_house: OpenHouse) -> None:
    house = await open_house(Script(**HANGS))
    response = await house.chat(stream=True)
    seen = await read_until(response, b"Hel")
    draining = asyncio.ensure_future(house.edge.drain(5))  # noqa: TID251 - the test's own
    await until(lambda: house.edge.health.value == "draining")
    refused = await house.chat()
    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert (await house.http.get(house.edge.url + "/readyz")).status == 503
    house.speculator.release.set()
    assert content(seen + await response.read()) == TEXT
    async with asyncio.timeout(5):
        await draining


async def test_a_stopped_edge_tells_its_clients(open_house: OpenHouse) -> None:
    house = await open_house(Script(**HANGS))
    response = await house.chat(stream=True)
    seen = await read_until(response, b"Hel")
    await house.edge.stop()
    raw = seen + await response.read()
    assert b'"code":"draining"' in raw
    assert raw.endswith(b"data: [DONE]\n\n")
    assert house.speculator.cancelled


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reader_that_does_not_read_is_dropped(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("twd.edge.http.replies.STALL_S", 0.2)
    house = await open_house(Script(words=["x" * 100_000] * 300, per_event=1))
    reader, writer = await asyncio.open_connection("127.0.0.1", house.edge.server.port, limit=1024)
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await until(lambda: len(house.speculator.jobs) == 1)
    await until(lambda: len(house.edge.tracker) == 0 and house.edge.front.counters.in_flight == 0, timeout_s=20)
    assert (await house.chat(max_tokens=1)).status == 200
    came = 0
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 20):
            came += len(piece)
    assert came < 30_000_000
    writer.close()


async def test_a_reader_that_does_not_read_the_end_is_dropped(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("twd.edge.http.replies.STALL_S", 0.05)
    monkeypatch.setattr("aiohttp.http_writer.StreamWriter.drain", full)
    house = await open_house()
    response = await house.chat(stream=True)
    await read_until(response, b"[DONE]")
    await until(lambda: house.edge.front.counters.in_flight == 0)
    assert house.edge.front._in_progress == 0


async def test_a_reader_that_falls_far_behind_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.edge.inflight_requests.NEWS_MAX", 10)
    told: list[Event] = []
    tracker = RequestTracker(SystemClock(), lambda job, timeout_s: None, told.append, lambda action: action())
    job = JobSubmitted(
        job=JobId("j"),
        model=ModelId("m"),
        owner=InstanceId("o"),
        prompt=Prompt(text="x"),
        sampling=Sampling(seed=1),
    )
    call = tracker.open([job])
    for index in range(20):
        piece = TokensAccepted(
            job=job.job, attempt=1, session=SessionId("s"), at=index, index=index, tokens=[1], text="x"
        )
        tracker.hear(piece)
    assert call.ended
    (last,) = call.news
    assert isinstance(last[1], Failure)
    assert "unread" in last[1].message
    assert [type(event) for event in told] == [JobCancelled]
    assert len(tracker) == 0


async def test_a_fault_midway_breaks_off_and_the_edge_lives(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(self: object) -> bytes:
        raise ValueError("planted")

    monkeypatch.setattr("twd.edge.openai.chat_answer.ChatAnswer.end", breaks)
    response = await house.chat(stream=True)
    with pytest.raises(aiohttp.ClientError):
        await response.read()
    monkeypatch.setattr("twd.edge.openai.chat_answer.ChatAnswer.whole", breaks)
    whole = await house.chat()
    assert whole.status == 500
    assert "planted" not in await whole.text()
    assert (await house.post("/v1/completions", {"prompt": "x"})).status == 200


async def test_many_streams_whose_workers_are_killed(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=[f"w{i} " for i in range(40)], per_event=1))
    house.edge.tracker._policy = OwnerPolicy(silence_s=0.5, answer_s=0.5, gap_s=0.2, backoff_s=0.01, losses=100)
    workers = [house.speculator]
    for seed in range(4):
        worker = FakeSpeculator(ctx(house.broker, 20 + seed), house.script)
        await worker.start()
        workers.append(worker)
    dice = random.Random(7)

    async def one() -> str:
        return content(await (await house.chat(stream=True, seed=1)).read())

    reading = asyncio.gather(*[one() for _ in range(40)])
    for worker in workers[:-1]:
        enough = worker.handled + dice.randint(1, 4)
        await until(lambda worker=worker, enough=enough: worker.handled >= enough or reading.done())  # type: ignore[misc]
        worker.bus.kill()  # type: ignore[attr-defined]
    texts = await reading
    assert set(texts) == {"".join(house.script.words)}
    for worker in workers[1:]:
        await worker.stop()


async def test_the_lease_names_the_real_port(house: House) -> None:
    assert house.edge.facts().url == f"http://127.0.0.1:{house.edge.server.port}"
    assert house.edge.server.port > 0
