"""What a program gets from the demo through the official client."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai import APIStatusError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from tests.cli.running import Installed

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats]
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three colours of the rainbow."}]
NEXT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "And one more."}]


def say(client: OpenAI, **fields: Any) -> str:
    return str(answer(client, **fields).choices[0].message.content)


def answer(client: OpenAI, messages: Sequence[ChatCompletionMessageParam] = ASK, **fields: Any) -> ChatCompletion:
    done = client.chat.completions.create(model="default", messages=messages, **fields)
    assert isinstance(done, ChatCompletion)
    return done


def test_the_same_seed_gives_the_same_text_with_and_without_drafts(client: OpenAI) -> None:
    options = {"max_tokens": 24, "temperature": 0.9, "seed": 11}
    plain = say(client, **options, extra_body={"twd": {"speculation": "off"}})
    drafted = [say(client, **options, extra_body={"twd": {"speculation": n}}) for n in ("auto", 1, 8)]
    assert drafted == [plain] * 3
    assert say(client, **{**options, "seed": 12}) != plain


def test_a_stream_holds_the_text_of_the_whole_answer_and_the_usage(client: OpenAI) -> None:
    whole = answer(client, max_tokens=24, temperature=0)
    stream = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    told = chunks[-1].usage
    assert told is not None
    assert whole.usage is not None
    assert told == whole.usage.model_copy(update={"prompt_tokens_details": told.prompt_tokens_details})


def test_max_tokens_is_exact(client: OpenAI) -> None:
    for limit in (1, 2, 7):
        done = answer(client, max_tokens=limit, temperature=0)
        assert done.usage is not None
        assert done.usage.completion_tokens == limit
        assert done.choices[0].finish_reason == "length"


def test_stop_strings_end_the_text_and_are_not_in_it(client: OpenAI) -> None:
    whole = say(client, max_tokens=40, temperature=0)
    stop = whole[9:13]
    assert say(client, max_tokens=40, temperature=0, stop=[stop]) == whole[: whole.index(stop)]


def test_a_json_schema_is_kept(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer"}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    text = say(
        client,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema, "strict": True}},
    )
    answer = json.loads(text)
    assert answer["colour"] in ("red", "green")
    assert isinstance(answer["count"], int)


def test_a_second_turn_reads_only_what_is_new(client: OpenAI) -> None:
    first = say(client, max_tokens=16, temperature=0)
    turns: list[ChatCompletionMessageParam] = [
        *ASK,
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And one more."},
    ]
    done = answer(client, turns, max_tokens=4, temperature=0)
    assert done.usage is not None
    assert done.usage.prompt_tokens_details is not None
    assert (done.usage.prompt_tokens_details.cached_tokens or 0) > 20


def test_bad_requests_name_their_field(client: OpenAI) -> None:
    for fields, status, param in (
        ({"temperature": -1}, 400, "temperature"),
        ({"max_tokens": 10**6}, 400, "max_tokens"),
        ({"model": "nobody"}, 404, "model"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}}, 400, ""),
    ):
        with pytest.raises(APIStatusError) as caught:
            client.chat.completions.create(**{"model": "default", "messages": ASK, "max_tokens": 4, **fields})  # type: ignore[call-overload]
        assert caught.value.status_code == status, fields
        assert param in str(caught.value.body)


def test_models_and_health(demo: Installed, client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names
    assert client.models.retrieve(names[0]).id == names[0]
    assert demo.status()["healthy"]


def test_a_predicted_answer_is_the_same_and_what_came_of_it_is_counted(client: OpenAI) -> None:
    text = say(client, max_tokens=40, temperature=0, extra_body={"twd": {"speculation": "off"}})
    counts = []
    for expected in (text, text[:40] + "something else" + text[60:], "Nothing of the kind."):
        done = answer(client, max_tokens=40, temperature=0, prediction={"type": "content", "content": expected})
        assert done.choices[0].message.content == text
        assert done.usage is not None
        assert done.usage.completion_tokens_details is not None
        counts.append(done.usage.completion_tokens_details.accepted_prediction_tokens or 0)
    assert counts[0] == 40
    assert 10 < counts[1] < 40
    assert counts[2] < 10
