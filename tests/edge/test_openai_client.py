"""The official OpenAI client against a real port."""

from typing import Any

import pytest
from openai import APIStatusError, APITimeoutError, AsyncOpenAI, BadRequestError, NotFoundError, RateLimitError

from tests.edge.conftest import IN_EVERY_MODE, House, OpenHouse
from tests.edge.fake_speculator import WORDS, Script
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import PREDICTION_MAX

pytestmark = IN_EVERY_MODE
TEXT = "".join(WORDS)
HI: Any = [{"role": "user", "content": "hi"}]


def client(house: House, **options: Any) -> Any:
    """A client for this house that does not hide errors behind retries."""
    given: dict[str, Any] = {"max_retries": 0, "timeout": 10.0} | options
    return AsyncOpenAI(base_url=house.edge.url + "/v1", api_key="none", **given)


async def test_chat(house: House) -> None:
    async with client(house) as openai:
        answer = await openai.chat.completions.create(model="small", messages=HI, seed=1)
        assert answer.choices[0].message.content == TEXT
        assert answer.usage.total_tokens == 18
        assert answer.usage.prompt_tokens_details.cached_tokens == 4
        assert answer.system_fingerprint == "fp_test"
        assert answer.twd["seed"] == 1


async def test_a_predicted_answer(house: House) -> None:
    async with client(house) as openai:
        expected = f"{WORDS[0].strip()} nothing else"
        for content in (expected, [{"type": "text", "text": expected}]):
            answer = await openai.chat.completions.create(
                model="small", messages=HI, prediction={"type": "content", "content": content}
            )
            details = answer.usage.completion_tokens_details
            assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (1, 2)
            assert house.jobs[-1].speculation.prediction == expected
        answer = await openai.chat.completions.create(model="small", messages=HI)
        assert answer.usage.completion_tokens_details is None


@pytest.mark.parametrize(
    ("prediction", "field"),
    [
        ({"type": "guess", "content": "x"}, "prediction.type"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "content", "content": 5}, "prediction.content"),
        ({"type": "content", "content": "x" * (PREDICTION_MAX + 1)}, "prediction.content"),
        (
            {"type": "content", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "prediction.content[0].type",
        ),
    ],
)
async def test_what_cannot_be_predicted(house: House, prediction: Any, field: str) -> None:
    async with client(house) as openai:
        with pytest.raises(BadRequestError) as caught:
            await openai.chat.completions.create(model="small", messages=HI, prediction=prediction)
        assert caught.value.param == field


async def test_chat_stream(house: House) -> None:
    async with client(house) as openai:
        stream = await openai.chat.completions.create(
            model="small", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
        assert chunks[-1].usage.completion_tokens == len(WORDS)


async def test_the_stream_helper(house: House) -> None:
    async with client(house) as openai:
        async with openai.chat.completions.stream(model="small", messages=HI) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == TEXT
        assert "content.done" in kinds


async def test_completions(house: House) -> None:
    async with client(house) as openai:
        answer = await openai.completions.create(model="small", prompt="x", max_tokens=2, logprobs=1)
        assert answer.choices[0].text == "Hello"
        assert answer.choices[0].finish_reason == "length"
        stream = await openai.completions.create(model="small", prompt="x", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == TEXT


async def test_models(house: House) -> None:
    async with client(house) as openai:
        named = {"speculate": [], "gate": ["quick", "small+gate"], "consensus": ["small+consensus"]}[house.mode]
        assert [model.id async for model in openai.models.list()] == ["small", *named, "default", "twd"]
        assert (await openai.models.retrieve("default")).id == "default"


async def test_errors_are_typed(open_house: OpenHouse) -> None:
    house = await open_house(max_queue=1)
    async with client(house) as openai:
        with pytest.raises(BadRequestError) as bad:
            await openai.chat.completions.create(model="small", messages=HI, temperature=9)
        assert bad.value.param == "temperature"
        with pytest.raises(NotFoundError) as missing:
            await openai.chat.completions.create(model="big", messages=HI)
        assert missing.value.code == "model_not_found"
        with pytest.raises(RateLimitError):
            await openai.chat.completions.create(model="small", messages=HI, n=2)


async def test_a_failure_midway_is_an_api_error(open_house: OpenHouse) -> None:
    failure = Failure(code=FailureCode.OUT_OF_MEMORY, message="no memory left")
    house = await open_house(Script(fail_after=2, failure=failure))
    async with client(house) as openai:
        stream = await openai.chat.completions.create(model="small", messages=HI, stream=True)
        with pytest.raises(Exception, match="no memory left"):
            async for _ in stream:
                pass


async def test_a_client_timeout_cancels(open_house: OpenHouse) -> None:
    house = await open_house(Script(hang_after=2))
    async with client(house, timeout=0.2) as openai:
        with pytest.raises((APITimeoutError, APIStatusError)):
            await openai.chat.completions.create(model="small", messages=HI)
    await house.speculator.cancel_heard.wait()
    assert house.speculator.cancelled
