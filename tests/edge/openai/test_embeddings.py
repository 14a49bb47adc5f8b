"""/v1/embeddings as OpenAI's client uses it, and what is said where it cannot be."""

import asyncio
import struct
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.edge.conftest import House, OpenHouse, ctx
from tests.edge.fake_speculator import MODEL
from tests.waiting import until
from twd.bus.base import PAYLOAD_BYTES_MAX, RequestTimeout
from twd.edge.auth.keys import ApiKey, KeyStore, digest
from twd.kit.service import Effects, Reply, Service
from twd.wire.embedding import EmbeddingMade, EmbeddingRequested
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import JobFailed


class FakeEmbedder(Service):
    """Makes two numbers of a text: its length, and how many were asked before."""

    name = "speculator"
    reads = (EmbeddingRequested,)
    refuse: Failure | None = None
    silent = False

    def on_embedding_requested(self, event: EmbeddingRequested, reply: Reply) -> Effects:
        if self.silent:
            return None
        if self.refuse is not None:
            reply(JobFailed(job=event.job, attempt=1, failure=self.refuse))
            return None
        length = len(event.prompt.text or event.prompt.tokens or "")
        vector = struct.pack("<2f", length, self.handled)
        reply(EmbeddingMade(job=event.job, vector=vector, prompt_tokens=length))
        return None


@pytest.fixture
async def embedder(house: House) -> AsyncIterator[FakeEmbedder]:
    one = FakeEmbedder(ctx(house.broker, 4))
    await one.start()
    yield one
    await one.stop()


async def ask(house: House, **fields: object) -> tuple[int, dict[str, Any]]:
    response = await house.post("/v1/embeddings", {"model": MODEL, "input": "four"} | fields)
    return response.status, await response.json()


async def test_the_official_client(house: House, embedder: FakeEmbedder) -> None:
    async with AsyncOpenAI(base_url=f"{house.edge.url}/v1", api_key="none", max_retries=0) as client:
        made = await client.embeddings.create(model="default", input=["four", "seven .", "x"])
    assert [one.embedding for one in made.data] == [[4.0, 0.0], [7.0, 1.0], [1.0, 2.0]]
    assert [one.index for one in made.data] == [0, 1, 2]
    assert (made.model, made.usage.prompt_tokens, made.usage.total_tokens) == (MODEL, 12, 12)


@pytest.mark.parametrize(
    ("given", "lengths"),
    [("four", [4.0]), ([1, 2, 3], [3.0]), ([[1, 2], [3]], [2.0, 1.0]), (["a", "bc"], [1.0, 2.0])],
)
async def test_inputs_of_every_kind(house: House, embedder: FakeEmbedder, given: object, lengths: list[float]) -> None:
    status, answer = await ask(house, input=given)
    assert status == 200
    assert [one["embedding"][0] for one in answer["data"]] == lengths


async def test_numbers_or_base64(house: House, embedder: FakeEmbedder) -> None:
    _, plain = await ask(house, encoding_format="float")
    _, packed = await ask(house, encoding_format="base64")
    assert plain["data"][0]["embedding"] == [4.0, 0.0]
    assert struct.unpack("<2f", b64decode(packed["data"][0]["embedding"])) == (4.0, 1.0)


@pytest.mark.parametrize("given", ["", [], [""], [[]], [[1], []], ["a", 1], [1, "a"], [-1], 5, None, ["x"] * 2049])
async def test_what_cannot_become_a_vector(house: House, embedder: FakeEmbedder, given: object) -> None:
    status, answer = await ask(house, input=given)
    assert status == 400
    assert "input" in f"{answer['error']['param']} {answer['error']['message']}"
    assert embedder.handled == 0


async def test_failures_keep_their_status_and_name_the_input(house: House, embedder: FakeEmbedder) -> None:
    embedder.refuse = Failure(code=FailureCode.BAD_REQUEST, message="a token is outside", field="prompt")
    status, answer = await ask(house)
    assert (status, answer["error"]["param"]) == (400, "input")
    embedder.refuse = Failure(code=FailureCode.BUSY, message="many wait")
    assert (await ask(house))[0] == 429


async def test_one_deadline_holds_for_all_inputs(
    house: House, embedder: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_bus, now, left = house.edge.bus.request, house.edge.front.clock.now(), list[float]()

    async def slow(subject: str, data: bytes, *, timeout_s: float) -> bytes:
        left.append(timeout_s)
        if not timeout_s:
            raise RequestTimeout(subject, timeout_s)
        return await ask_bus(subject, data, timeout_s=timeout_s)

    monkeypatch.setattr(house.edge.bus, "request", slow)
    monkeypatch.setattr(house.edge.front.clock, "now", lambda: now + 0.25 * len(left))
    response = await house.post(
        "/v1/embeddings", {"model": MODEL, "input": ["x"] * 50}, headers={"x-twd-deadline-s": "0.6"}
    )
    assert response.status == 504
    assert left == pytest.approx([0.6, 0.35, 0.1, 0.0])


async def test_embeddings_count_as_requests_in_progress(open_house: OpenHouse) -> None:
    house = await open_house(max_queue=1)
    silent = FakeEmbedder(ctx(house.broker, 4))
    silent.silent = True
    await silent.start()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(ask(house))
        await until(lambda: silent.handled == 1)
        assert (await ask(house))[0] == 429
        status = await (await house.http.get(house.edge.url + "/v1/twd/status")).json()
        assert (status["edge"]["refused"], status["edge"]["in_flight"]) == (1, 2)
        first.cancel()
    await silent.stop()


async def test_an_input_over_the_limit_of_the_broker_is_told_as_such(house: House, embedder: FakeEmbedder) -> None:
    status, answer = await ask(house, input="x" * PAYLOAD_BYTES_MAX)
    assert (status, answer["error"]["param"]) == (413, "input")
    assert str(PAYLOAD_BYTES_MAX) in answer["error"]["message"]
    assert "twd.v1" not in answer["error"]["message"]


async def test_a_vector_that_does_not_come_in_time(house: House, embedder: FakeEmbedder) -> None:
    embedder.silent = True
    response = await house.post("/v1/embeddings", {"input": "x"}, headers={"x-twd-deadline-s": "0.05"})
    assert response.status == 504
    assert "0.05 s" in (await response.json())["error"]["message"]


async def test_a_model_that_makes_none_is_told_apart_from_one_that_is_away(house: House) -> None:
    status, answer = await ask(house)
    assert status == 400
    assert "makes no embeddings" in answer["error"]["message"]
    await house.speculator.stop()
    assert (await ask(house))[0] in (503, 404)
    assert (await ask(house, model="nothing"))[0] == 404


async def test_what_a_key_may_use_counts_as_the_vectors_come(
    open_house: OpenHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyStore(tmp_path).save([ApiKey(name="k", sha256=digest("twd_k"), tokens_per_day=10)])
    house = await open_house()
    one = FakeEmbedder(ctx(house.broker, 4))
    await one.start()
    refused = await house.http.post(
        house.edge.url + "/v1/embeddings",
        json={"model": MODEL, "input": ["12345"] * 100},
        headers={"Authorization": "Bearer twd_k"},
    )
    assert refused.status == 429
    assert one.handled == 2
    assert house.edge.front.meter._uses["k"].tokens == 10
    await one.stop()
