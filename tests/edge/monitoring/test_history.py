"""Live events, history, traces, and the document that describes the API."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from tests.edge.conftest import House, OpenHouse, ctx
from tests.edge.fake_speculator import Script
from tests.signed import signed
from tests.waiting import until
from twd.bus.base import BusMessage, Subscription, SubscriptionOptions
from twd.edge.auth.keys import ApiKey, KeyStore, digest
from twd.edge.http.openapi import OPERATIONS, document
from twd.edge.monitoring.feed import PENDING_BYTES_MAX, PENDING_MAX, FeedWatcher
from twd.edge.monitoring.redact import redacted
from twd.kit.service import Effects, Reply, Service
from twd.metrics.service import MetricsService
from twd.wire.base import InstanceId, JobId, ModelId, SessionId
from twd.wire.codec import encode
from twd.wire.failures import TwdError
from twd.wire.job import FinishReason, JobFinished, JobStats, JobSubmitted, Prompt, Speculation, TokensAccepted
from twd.wire.routes import ROUTE_OF, subject_of
from twd.wire.trace import HistoryReported, HistoryRequested, TraceReported, TraceRequested

SECRET = "my secret words"


def submitted() -> JobSubmitted:
    return JobSubmitted(job=JobId("j"), model=ModelId("m"), owner=InstanceId("o"), prompt=Prompt(text=SECRET))


def accepted(index: int, job: str = "j") -> TokensAccepted:
    return TokensAccepted(
        job=JobId(job), attempt=1, session=SessionId("s"), at=index, index=index, tokens=[1, 2], text=SECRET
    )


class Historian(Service):
    """Remembers one job."""

    name = "metrics"
    reads = (TraceRequested, HistoryRequested)
    writes = (TraceReported, HistoryReported)

    def on_trace_requested(self, event: TraceRequested, reply: Reply) -> Effects:
        known = [submitted(), accepted(0)] if event.job == "j" else []
        reply(TraceReported(job=event.job, events=[msgspec.Raw(encode(e)) for e in known], forgotten=1))
        return None

    def on_history_requested(self, event: HistoryRequested, reply: Reply) -> Effects:
        end = JobFinished(job=JobId("j"), attempt=1, reason=FinishReason.STOP, stats=JobStats(passes=3))
        reply(HistoryReported(events=[msgspec.Raw(encode(end))] * min(event.limit, 3)))
        return None


async def test_traces_and_history_without_anybodys_words(house: House) -> None:
    historian = Historian(ctx(house.broker, 8))
    await historian.start()
    for name in ("j", "chatcmpl-j"):
        response = await house.http.get(house.edge.url + f"/v1/twd/jobs/{name}")
        trace = await response.json()
        assert trace["events"][0]["prompt"] == {"hidden": True}
        assert trace["events"][1]["tokens"] == 2
        assert trace["forgotten"] == 1
        assert SECRET not in await response.text()
    assert (await house.http.get(house.edge.url + "/v1/twd/jobs/other")).status == 404
    history = await (await house.http.get(house.edge.url + "/v1/twd/history?limit=2")).json()
    assert [job["stats"]["passes"] for job in history["jobs"]] == [3, 3]
    for limit in ("0", "-1", "x", "1001", "9" * 400, "²"):
        bad = await house.http.get(house.edge.url + "/v1/twd/history", params={"limit": limit})
        assert bad.status == 400
    await historian.stop()


async def test_nobody_remembers(house: House) -> None:
    for path in ("/v1/twd/history", "/v1/twd/jobs/j"):
        response = await house.http.get(house.edge.url + path)
        assert response.status == 503
        assert "twd run metrics" in (await response.json())["error"]["message"]


async def test_live_events(house: House) -> None:
    response = await house.http.get(house.edge.url + "/v1/twd/events?topics=job,tokens")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    await house.chat()
    seen = b""
    async with asyncio.timeout(5):
        while b"event: twd.v1.job.finished" not in seen:
            seen += await response.content.readany()
    assert b"event: twd.v1.job.started" in seen
    assert b"H\xc3\xa9l" not in seen
    assert b"Hel" not in seen
    response.close()
    await until(lambda: not house.edge.records.feed._watchers)
    assert house.edge.records.feed._subscriptions == []


async def test_who_leaves_while_attaching_leaves_nothing_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = house.edge.records.feed

    async def breaks_off(hearings: Sequence[SubscriptionOptions]) -> list[Subscription]:
        raise asyncio.CancelledError

    monkeypatch.setattr(feed._bus, "subscribe_all", breaks_off)
    with pytest.raises(asyncio.CancelledError):
        await feed.attach(FeedWatcher(frozenset(), ""))
    monkeypatch.undo()
    watcher = FeedWatcher(frozenset({"job"}), "")
    await feed.attach(watcher)
    await house.chat()
    tags = [tag for tag, _ in watcher.take()]
    assert len(tags) == len(set(tags))
    await feed.detach(watcher)
    assert not feed._watchers
    assert not feed._subscriptions


async def test_live_events_have_no_head(house: House) -> None:
    assert (await house.http.head(house.edge.url + "/v1/twd/events")).status == 405


async def test_watching_does_not_look_like_a_worker(open_house: OpenHouse) -> None:
    house = await open_house(Script())
    response = await house.http.get(house.edge.url + "/v1/twd/events")
    await house.speculator.stop()
    house.edge.models.configured = ("small",)
    refused = await house.chat(model="small", twd={"deadline_s": 0.2})
    assert refused.status in (503, 504)
    response.close()


async def test_watchers_end_when_the_edge_drains(house: House) -> None:
    response = await house.http.get(house.edge.url + "/v1/twd/events")
    feed = house.edge.records.feed
    assert feed._watchers
    async with asyncio.timeout(20):
        await house.edge.drain(600)  # it would wait so long for an answer that does not end
        await response.read()
    assert not feed._watchers


async def test_topics_are_those_of_what_is_broadcast(house: House) -> None:
    unknown = await house.http.get(house.edge.url + "/v1/twd/events?topics=gossip")
    assert unknown.status == 400
    assert "change, draft" in (await unknown.json())["error"]["message"]
    known = await house.http.get(house.edge.url + "/v1/twd/events?topics=node,ring,change")
    assert known.status == 200
    known.close()


def message(event: Any) -> BusMessage:
    return BusMessage(subject_of(signed(event)), encode(signed(event)))


def test_a_busy_watcher_gets_the_newest_of_each_job() -> None:
    watcher = FeedWatcher(frozenset(), "")
    tag = ROUTE_OF[TokensAccepted].tag
    for index in range(5000):
        watcher.offer(tag, message(accepted(index)))
    assert [event["index"] for _, event in watcher.take()] == [4999]
    assert watcher.dropped == 0


def test_a_watcher_that_does_not_read_is_bounded() -> None:
    watcher = FeedWatcher(frozenset(), "")
    tag = ROUTE_OF[TokensAccepted].tag
    for index in range(PENDING_MAX + 10):
        watcher.offer(tag, message(accepted(index, f"job-{index}")))
    assert watcher.dropped == 10
    assert len(watcher.take()) == PENDING_MAX


def test_what_waits_for_a_watcher_is_bounded_in_bytes() -> None:
    watcher = FeedWatcher(frozenset(), "")
    tag, half = ROUTE_OF[JobFinished].tag, PENDING_BYTES_MAX // 2
    left = []
    for size in (half, half, 1, half - 1, 2 * half, 10):
        watcher.offer(tag, BusMessage("twd.v1.job.finished.x", b" " * size))
        left.append([len(data) for _, data in watcher._pending.values()])
    assert left == [[half], [half, half], [half, 1], [half, 1, half - 1], [2 * half], [10]]
    assert watcher.dropped == 5


def test_what_only_the_newest_is_kept_of_counts_once() -> None:
    watcher = FeedWatcher(frozenset(), "")
    tag, half = ROUTE_OF[TokensAccepted].tag, PENDING_BYTES_MAX // 2
    for _ in range(5):
        for subject in ("x", "y"):
            watcher.offer(tag, BusMessage(subject, b" " * half))
    watcher.take()
    watcher.offer(tag, BusMessage("z", b" " * PENDING_BYTES_MAX))
    assert watcher.dropped == 0


async def test_one_watcher_too_many_is_told_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.edge.monitoring.feed.WATCHERS_MAX", 2)
    url = house.edge.url + "/v1/twd/events"
    first, second = await house.http.get(url), await house.http.get(url)
    refused = await house.http.get(url)
    assert refused.status == 429
    assert refused.headers["Retry-After"]
    assert "2 clients watch" in (await refused.json())["error"]["message"]
    first.close()
    await until(lambda: len(house.edge.records.feed._watchers) < 2)
    third = await house.http.get(url)
    assert third.status == 200
    second.close()
    third.close()


async def test_who_has_most_places_gives_one_to_who_has_fewest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.edge.monitoring.feed.WATCHERS_MAX", 4)
    feed = house.edge.records.feed
    greedy = [FeedWatcher(frozenset(), "", "greedy") for _ in range(4)]
    modest = [FeedWatcher(frozenset(), "", "modest") for _ in range(3)]
    for watcher in (*greedy, *modest[:2]):
        await feed.attach(watcher)
    assert [watcher.closed for watcher in greedy] == [True, True, False, False]
    for one_more in (modest[2], FeedWatcher(frozenset(), "", "greedy")):
        with pytest.raises(TwdError, match="4 clients watch"):
            await feed.attach(one_more)
    for watcher in (*greedy, *modest):
        await feed.detach(watcher)
    assert not feed._subscriptions


LIMITED, OTHER, WHOLE = ({"Authorization": f"Bearer twd_{word}"} for word in ("limited", "other", "whole"))


def save_keys(home: Path) -> None:
    both = [ApiKey(name=name, sha256=digest(f"twd_{name}"), models=["small"]) for name in ("limited", "other")]
    KeyStore(home).save([*both, ApiKey(name="whole", sha256=digest("twd_whole"))])


async def test_a_key_limited_to_a_model_sees_its_own_jobs_alone(open_house: OpenHouse, tmp_path: Path) -> None:
    save_keys(tmp_path)
    house = await open_house()
    metrics = MetricsService(ctx(house.broker, 8), house.edge.settings)
    await metrics.start()
    url = house.edge.url
    asked = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}
    watching = {
        who["Authorization"]: await house.http.get(url + "/v1/twd/events", headers=who) for who in (OTHER, WHOLE)
    }
    answer = await house.http.post(url + "/v1/chat/completions", json=asked, headers=LIMITED)
    job = answer.headers["x-twd-job"]

    async def sees(who: dict[str, str]) -> tuple[int, int]:
        history = await (await house.http.get(url + "/v1/twd/history", headers=who)).json()
        trace = await house.http.get(url + f"/v1/twd/jobs/{job}", headers=who)
        return len(history["jobs"]), trace.status

    assert await sees(LIMITED) == await sees(WHOLE) == (1, 200)
    assert await sees(OTHER) == (0, 404)
    for who, status in ((LIMITED, 403), (OTHER, 403), (WHOLE, 200)):
        assert (await house.http.get(url + "/metrics", headers=who)).status == status
    heard = watching[WHOLE["Authorization"]].content
    async with asyncio.timeout(20):
        while job.encode() not in await heard.readline():
            pass
    house.edge.records.feed.close()
    unheard = await watching[OTHER["Authorization"]].content.read()
    assert b"twd events" in unheard
    assert job.encode() not in unheard
    await metrics.stop()


async def test_a_key_limited_to_a_model_sees_no_other_model(open_house: OpenHouse, tmp_path: Path) -> None:
    stranger = ApiKey(name="stranger", sha256=digest("twd_stranger"), models=["large"])
    KeyStore(tmp_path).save([stranger, ApiKey(name="whole", sha256=digest("twd_whole"))])
    house = await open_house()
    url, limited = house.edge.url, {"Authorization": "Bearer twd_stranger"}

    async def told(path: str, who: dict[str, str]) -> tuple[str, Any]:
        answer = await house.http.get(url + path, headers=who)
        return await answer.text(), await answer.json()

    for path in ("/v1/twd/status", "/v1/models"):
        assert '"small"' in (await told(path, WHOLE))[0]
        assert "small" not in (await told(path, limited))[0]
    status = (await told("/v1/twd/status", limited))[1]
    assert (status["models"], status["services"], status["default_model"]) == ([], [], "")
    for name, code in (("small", 403), ("default", 403), ("nothing", 403), ("large", 404)):
        shown = await house.http.get(f"{url}/v1/models/{name}", headers=limited)
        asked = {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
        answer = await house.http.post(url + "/v1/chat/completions", json=asked, headers=limited)
        assert (shown.status, answer.status) == (code, code)
        assert name in ("small", "default") or "small" not in await shown.text() + await answer.text()


def test_what_is_no_event_is_left_out() -> None:
    watcher = FeedWatcher(frozenset(), "")
    for data in (b"{", b"[]", b"\xff", b"5", b"[" * 100_000):
        watcher.offer("twd.v1.job.finished", BusMessage("twd.v1.job.finished.x", data))
    assert watcher.take() == []


def test_words_in_a_part_of_an_event_are_hidden_too() -> None:
    job = JobSubmitted(
        job=JobId("j"),
        model=ModelId("m"),
        owner=InstanceId("e"),
        prompt=Prompt(text=SECRET),
        speculation=Speculation(window=3, prediction=SECRET),
    )
    shown = redacted(encode(job))
    assert SECRET not in repr(shown)
    assert shown["speculation"] == {"window": 3, "prediction": {"characters": len(SECRET)}}


def test_words_can_be_kept() -> None:
    assert redacted(encode(accepted(0)), keep_words=True)["text"] == SECRET


async def test_the_document_describes_every_route(house: House) -> None:
    described = {(operation.method.upper(), operation.path) for operation in OPERATIONS}
    runner = house.edge.server._runner
    assert runner is not None
    real = set()
    for route in runner.app.router.routes():
        if route.method not in ("HEAD", "OPTIONS") and route.resource is not None:
            real.add((route.method, route.resource.canonical))
    pages = {("GET", path) for path in ("/", "/dashboard", "/static/{name}")}
    assert real == described | pages
    body = await (await house.http.get(house.edge.url + "/openapi.json")).json()
    assert body == json.loads(json.dumps(document()))
    assert body["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("ChatRequest", {"messages": [{"role": "user", "content": "x"}]}, True),
        ("ChatRequest", {"messages": [{"role": "user", "content": "x"}], "temprature": 1}, False),
        ("ChatRequest", {"messages": []}, False),
        ("ChatRequest", {"messages": [{"role": "king", "content": "x"}]}, False),
        ("CompletionRequest", {"prompt": [1, 2]}, True),
        ("CompletionRequest", {"prompt": 5}, False),
    ],
)
def test_the_document_agrees_with_the_validators(name: str, value: Any, valid: bool) -> None:
    spec = document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": spec["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(value) is valid


@pytest.mark.parametrize("limit", ["", "0", "1001", "-1", "1.0", "\u0667", "\ua9d7", "1" * 5000])
async def test_a_limit_is_a_number_from_1_to_1000(house: House, limit: str) -> None:
    response = await house.http.get(house.edge.url + "/v1/twd/history", params={"limit": limit})
    assert (response.status, (await response.json())["error"]["param"]) == (400, "limit")


async def test_answers_follow_the_document(house: House) -> None:
    spec = document()

    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": spec["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)

    check("ChatCompletion", await (await house.chat(n=2, logprobs=True, top_logprobs=1)).json())
    check("TextCompletion", await (await house.post("/v1/completions", {"prompt": "x", "logprobs": 1})).json())
    check("ErrorEnvelope", await (await house.chat(n=0)).json())
    for path, name in [
        ("/v1/models", "ModelList"),
        ("/v1/models/small", "ModelCard"),
        ("/v1/twd/status", "SystemStatus"),
    ]:
        check(name, await (await house.http.get(house.edge.url + path)).json())
    described = spec["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]["text/event-stream"]
    event = jsonschema.Draft202012Validator({**described["schema"], "components": spec["components"]})
    streamed = await (await house.chat(stream=True, stream_options={"include_usage": True})).text()
    for line in streamed.split("\n"):
        if line.startswith("data: "):
            event.validate({"event": "message", "data": line[6:]})
        if line.startswith("data: {"):
            check("ChatChunk", json.loads(line[6:]))
