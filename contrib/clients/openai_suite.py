"""The official openai Python client against a running demo."""

import asyncio
import json
import math
from typing import Any

from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from suite import MODEL, STREAMS_DIFFER, Suite, base_url, refused

URL = base_url()
CLIENT = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=120)
SUITE = Suite("openai (Python)")
HI: list[Any] = [{"role": "user", "content": "Name three colours."}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def chat(**fields: Any) -> Any:
    """A short deterministic answer."""
    given = {"model": MODEL, "messages": HI, "max_tokens": 12, "temperature": 0, "seed": 7} | fields
    return CLIENT.chat.completions.create(**given)


def text(**fields: Any) -> Any:
    """A short deterministic continuation."""
    given = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "seed": 7} | fields
    return CLIENT.completions.create(**given)


def streamed(**fields: Any) -> str:
    """The text of a stream."""
    chunks = list(chat(stream=True, **fields))
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def well_formed(answer: Any) -> None:
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def whole_equals_stream(fields: dict[str, Any]) -> None:
    assert chat(**fields).choices[0].message.content == streamed(**fields) or STREAMS_DIFFER


def exact_length(count: int) -> None:
    answer = chat(max_tokens=count, logit_bias={})
    assert answer.usage.completion_tokens <= count
    if answer.choices[0].finish_reason == "length":
        assert answer.usage.completion_tokens == count


def stops(stop: Any) -> None:
    whole = chat(max_tokens=24).choices[0].message.content
    answer = chat(max_tokens=24, stop=stop).choices[0].message.content
    assert whole.startswith(answer)
    assert not any(one in answer for one in ([stop] if isinstance(stop, str) else stop))


def several(n: int) -> None:
    answer = chat(n=n, temperature=1)
    assert [choice.index for choice in answer.choices] == list(range(n))


def repeatable(temperature: float) -> None:
    one, two = chat(temperature=temperature), chat(temperature=temperature)
    assert one.choices[0].message.content == two.choices[0].message.content
    assert one.system_fingerprint == two.system_fingerprint


def with_logprobs(top: int) -> None:
    content = chat(logprobs=True, top_logprobs=top).choices[0].logprobs.content
    assert content
    assert all(len(token.top_logprobs) == top and token.logprob <= 0 for token in content)


def usage_in_stream() -> None:
    *chunks, last = list(chat(stream=True, stream_options={"include_usage": True}))
    assert last.choices == []
    assert last.usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks)


def json_object() -> None:
    answer = chat(response_format={"type": "json_object"}, max_tokens=400, temperature=0.8)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


def schema(strict: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": strict}}
    answer = chat(response_format=form, max_tokens=200)
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}


def forced_call(choice: Any, stream: bool) -> None:
    asked = [{"role": "user", "content": "How is the weather in Oslo?"}]
    answer = chat(messages=asked, tools=[WEATHER], tool_choice=choice, max_tokens=100, stream=stream)
    if stream:
        deltas = [call for c in answer if c.choices for call in c.choices[0].delta.tool_calls or []]
        pieces = [call.function for call in deltas if call.index == 0]
        name, arguments = pieces[0].name, "".join(piece.arguments or "" for piece in pieces)
    else:
        call = answer.choices[0].message.tool_calls[0]
        name, arguments = call.function.name, call.function.arguments
    assert name == "weather"
    assert set(json.loads(arguments)) == {"city"}


def tool_answers() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    told: list[Any] = [
        {"role": "user", "content": "How is the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    well_formed(chat(messages=told, tools=[WEATHER], tool_choice="none"))


def vectors(given: Any, count: int) -> None:
    made = CLIENT.embeddings.create(model=MODEL, input=given)
    assert len(made.data) == count
    assert all(math.isclose(sum(x * x for x in one.embedding), 1.0, abs_tol=1e-3) for one in made.data)
    assert made.usage.prompt_tokens > 0


def formats_agree() -> None:
    plain = CLIENT.embeddings.create(model=MODEL, input="x y", encoding_format="float").data[0].embedding
    packed = CLIENT.embeddings.create(model=MODEL, input="x y").data[0].embedding
    assert all(math.isclose(one, two, abs_tol=1e-6) for one, two in zip(plain, packed, strict=True))


def response(**fields: Any) -> Any:
    given = {"model": MODEL, "input": "Say hello.", "max_output_tokens": 16, "temperature": 0} | fields
    return CLIENT.responses.create(**given)


def response_streams() -> None:
    kinds = [event.type for event in response(stream=True)]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert "response.output_text.delta" in kinds


def many_at_once() -> None:
    async def ask() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=120) as client:
            calls = [client.chat.completions.create(model=MODEL, messages=HI, max_tokens=6) for _ in range(6)]
            return await asyncio.gather(*calls)

    assert all(answer.choices for answer in asyncio.run(ask()))


def own_headers() -> None:
    raw = CLIENT.chat.completions.with_raw_response.create(
        model=MODEL, messages=HI, max_tokens=4, extra_body={"twd": {"mode": "direct"}}
    )
    assert raw.headers["x-twd-mode"] == "direct"


def build() -> None:
    """All calls."""
    add, each = SUITE.add, SUITE.each
    add("list models", lambda: next(iter(CLIENT.models.list())).id)
    add("show a model", lambda: CLIENT.models.retrieve(MODEL).id)
    each("model name", [MODEL, "default", "twd"], lambda name: well_formed(chat(model=name)))
    each("roles", ["system", "developer"], lambda role: chat(messages=[{"role": role, "content": "Be kind."}, *HI]))
    add("content parts", lambda: chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]))
    options = [{}, {"temperature": 1}, {"temperature": 0.7, "top_p": 0.9}, {"frequency_penalty": 1}, {"stop": ["\n"]}]
    each("stream equals whole", options, whole_equals_stream)
    each("max_tokens", [1, 2, 7], exact_length)
    add("max_completion_tokens", lambda: chat(max_tokens=None, max_completion_tokens=3).usage.completion_tokens == 3)
    each("stop", ["\n", ["e"], ["\n", "b", ",", "z"]], stops)
    each("n", [1, 2, 4], several)
    each("seed repeats", [0.0, 0.7, 1.5], repeatable)
    each("logprobs", [0, 1, 5], with_logprobs)
    each("penalties", [-1, 0.5, 2], lambda p: well_formed(chat(presence_penalty=p, frequency_penalty=p)))
    add("logit_bias", lambda: well_formed(chat(logit_bias={"5": -100, "7": 20})))
    add("usage in the stream", usage_in_stream)
    add("json_object", json_object)
    each("json_schema", [True, False], schema)
    named = {"type": "function", "function": {"name": "weather"}}
    each("forced call", [("required", False), ("required", True), (named, False), (named, True)], forced_call)
    each("tool_choice", ["auto", "none"], lambda choice: chat(tools=[WEATHER], tool_choice=choice))
    add("tool answers", tool_answers)
    each(
        "completion",
        [{}, {"echo": True}, {"n": 2}, {"logprobs": 2}, {"prompt": ["a b", "c d"]}, {"stop": "."}],
        lambda fields: text(**fields).choices[0].text,
    )
    add("completion streams", lambda: [chunk.choices[0].text for chunk in text(stream=True)])
    each("embeddings", [("a b", 1), (["a", "b c"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)], vectors)
    add("embedding formats", formats_agree)
    add("response", lambda: response().output_text)
    add("response with instructions", lambda: response(instructions="Be brief.").output_text)
    add("response streams", response_streams)
    add("many at once", many_at_once)
    add("own headers", own_headers)
    add("unknown model", lambda: refused(lambda: chat(model="nothing"), NotFoundError, "nothing"))
    bad = [{"temperature": 9}, {"n": 0}, {"max_tokens": 0}, {"messages": []}, {"extra_body": {"colour": 1}}]
    each("refused", bad, lambda fields: refused(lambda: chat(**fields), BadRequestError))
    add("suffix", lambda: refused(lambda: text(suffix="the end"), BadRequestError, "middle"))
    add(
        "dimensions",
        lambda: refused(
            lambda: CLIENT.embeddings.create(model=MODEL, input="x", dimensions=3), BadRequestError, "numbers"
        ),
    )
    add("moderations", lambda: refused(lambda: CLIENT.moderations.create(input="x"), APIStatusError))


if __name__ == "__main__":
    build()
    raise SystemExit(SUITE.run())
