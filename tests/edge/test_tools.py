"""Tools: offered to the model, forced where asked, read from what it writes."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, pydantic_function_tool
from pydantic import BaseModel

from tests.edge.conftest import House, OpenHouse
from tests.edge.fake_speculator import Script
from tests.edge.test_openai_http import events
from twd.wire.job import FinishReason, GrammarKind

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time"}}
HERMES = [
    "Let me ",
    "look.\n<tool",
    '_call>{"name": "wea',
    'ther", "argu',
    'ments": {"ci',
    'ty": "Ulm"',
    "}}</tool_",
    "call>",
]
TWICE = ['[{"name": "weather", "arguments": {"city": "Ulm"}}, ', '{"name": "time", "arguments": {}}]']


@pytest.fixture
async def caller(open_house: OpenHouse) -> House:
    """A model that calls a tool."""
    return await open_house(Script(words=HERMES, per_event=1))


async def test_a_call_in_a_whole_answer(caller: House) -> None:
    body = await (await caller.chat(tools=[WEATHER, TIME])).json()
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Ulm"}
    tools = [json.loads(bytes(tool)) for tool in caller.speculator.jobs[0].prompt.tools]
    assert tools == [WEATHER, TIME]


async def test_a_call_in_a_stream(caller: House) -> None:
    chunks = await events(await caller.chat(tools=[WEATHER], stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["index"] == 0
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert all(set(call) == {"index", "function"} for call in calls[1:])
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Ulm"}
    assert len(calls) > 2
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me look."
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_parallel_calls(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=TWICE, per_event=1))
    body = await (await house.chat(tools=[WEATHER, TIME])).json()
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather", "time"]
    assert len({call["id"] for call in message["tool_calls"]}) == 2


async def test_one_call_where_parallel_ones_are_not_wanted(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=TWICE, per_event=1))
    body = await (await house.chat(tools=[WEATHER, TIME], parallel_tool_calls=False)).json()
    assert [call["function"]["name"] for call in body["choices"][0]["message"]["tool_calls"]] == ["weather"]
    tools = [{"name": tool["function"]["name"], "input_schema": {"type": "object"}} for tool in (WEATHER, TIME)]
    asked = {"model": "small", "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}], "tools": tools}
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    message = await (await house.post("/v1/messages", asked | {"tool_choice": choice})).json()
    assert [block["name"] for block in message["content"] if block["type"] == "tool_use"] == ["weather"]


async def test_the_official_clients_helper_understands_streamed_calls(caller: House) -> None:
    async with AsyncOpenAI(base_url=caller.edge.url + "/v1", api_key="none", max_retries=0) as openai:
        client: Any = openai
        messages = [{"role": "user", "content": "hi"}]
        async with client.chat.completions.stream(model="small", messages=messages, tools=[WEATHER]) as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert call.function.parsed_arguments == {"city": "Ulm"}


class Where(BaseModel):
    """Arguments, or an answer."""

    city: str


async def test_what_the_official_clients_helpers_add_to_answers_may_come_back(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=['{"name": "Where", "arguments": ', '{"city": "Ulm"}', "}"], per_event=1))
    tools: list[Any] = [pydantic_function_tool(Where)]
    flat = {"type": "function", **tools[0]["function"]}
    asked: Any = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    async with AsyncOpenAI(base_url=house.edge.url + "/v1", api_key="none", max_retries=0) as openai:
        client: Any = openai
        async with client.chat.completions.stream(**asked, tools=tools) as stream:
            streamed = (await stream.get_final_completion()).choices[0].message
        whole = (await client.chat.completions.parse(**asked, tools=tools)).choices[0].message
        responded = (await client.responses.parse(model="small", input="hi", tools=[flat])).output
        house.script.words = ['{"city": "Ulm"}']
        shaped = (await client.chat.completions.parse(**asked, response_format=Where)).choices[0].message
        written = (await client.responses.parse(model="small", input="hi", text_format=Where)).output
        for said in (streamed, whole, streamed.model_dump(), shaped.to_dict(warnings=False)):
            messages = [*asked["messages"], said, {"role": "user", "content": "go on"}]
            await client.chat.completions.create(model="small", messages=messages)
        for items in (responded, written):
            await client.responses.create(model="small", input=[*items, {"role": "user", "content": "go on"}])
    earlier = [(job.prompt.messages or [])[-2] for job in house.speculator.jobs[-6:]]
    assert [[call.name for call in turn.tool_calls] for turn in earlier] == 3 * [["Where"]] + [[], ["Where"], []]


async def test_without_tools_nothing_is_read_as_a_call(caller: House) -> None:
    for extra in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        body = await (await caller.chat(**extra)).json()
        assert body["choices"][0]["message"]["content"] == "".join(HERMES)
        assert body["choices"][0]["finish_reason"] == "stop"
        assert caller.speculator.jobs[-1].prompt.tools == []


async def test_a_call_that_breaks_off_is_cut(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=HERMES, per_event=1))
    body = await (await house.chat(tools=[WEATHER], max_tokens=5)).json()
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("choice", "parallel", "names", "is_list"),
    [
        ("required", None, {"weather", "time"}, True),
        ("required", False, {"weather", "time"}, False),
        ({"type": "function", "function": {"name": "time"}}, None, {"time"}, False),
    ],
)
async def test_calls_are_forced_by_a_grammar(
    caller: House, choice: Any, parallel: bool | None, names: set[str], is_list: bool
) -> None:
    await caller.chat(tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=parallel)
    grammar = caller.speculator.jobs[0].grammar
    assert grammar is not None
    assert grammar.kind is GrammarKind.JSON_SCHEMA
    schema = json.loads(grammar.text)
    assert (schema.get("type") == "array") is is_list
    calls = schema["items"] if is_list else schema
    found = {call["properties"]["name"]["const"] for call in calls.get("anyOf", [calls])}
    assert found == names


@pytest.mark.parametrize("how", ["auto", "required"])
async def test_only_allowed_tools_are_offered(caller: House, how: str) -> None:
    named = {"type": "function", "function": {"name": "time"}}
    chosen = {"type": "allowed_tools", "allowed_tools": {"mode": how, "tools": [named]}}
    await caller.chat(tools=[WEATHER, TIME], tool_choice=chosen)
    flat = [{"type": "function", **tool["function"]} for tool in (WEATHER, TIME)]
    choice = {"type": "allowed_tools", "mode": how, "tools": [{"type": "function", "name": "time"}]}
    asked = {"model": "small", "input": "hi", "tools": flat, "tool_choice": choice}
    assert (await caller.post("/v1/responses", asked)).status == 200
    for job in caller.speculator.jobs:
        assert [json.loads(bytes(tool))["function"]["name"] for tool in job.prompt.tools] == ["time"]
        assert (job.grammar is not None) == (how == "required")


async def test_auto_and_none_force_nothing(caller: House) -> None:
    for choice in ("auto", "none", None):
        await caller.chat(tools=[WEATHER], tool_choice=choice)
        assert caller.speculator.jobs[-1].grammar is None


async def test_strict_tools_are_enforced_in_calls_that_the_model_may_make(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=HERMES, per_event=1, tool_format="hermes"))
    messages = [{"role": "user", "content": "hi"}]
    by_responses = {"model": "small", "input": "hi", "tools": [{"type": "function", **WEATHER["function"]}]}
    spec = WEATHER["function"]
    by_messages = {
        "model": "small",
        "max_tokens": 9,
        "messages": messages,
        "tools": [{"name": spec["name"], "input_schema": spec["parameters"], "strict": True}],
    }
    await house.chat(tools=[WEATHER, TIME])
    assert (await house.post("/v1/responses", by_responses)).status == 200
    assert (await house.post("/v1/messages", by_messages)).status == 200
    for job in house.speculator.jobs:
        grammar = job.grammar
        assert grammar is not None
        assert (grammar.begins, grammar.ends) == ("<tool_call>", "</tool_call>")
        assert '"city"' in grammar.text
    count = len(house.speculator.jobs)
    for nothing in ({"tools": [TIME]}, {"tools": [WEATHER], "tool_choice": "none"}, {}):
        await house.chat(**nothing)
    assert [job.grammar for job in house.speculator.jobs[count:]] == [None] * 3
    await house.chat(tools=[WEATHER], tool_choice="required")
    forced = house.speculator.jobs[-1].grammar
    assert forced is not None
    assert forced.begins == "", "the whole answer is a call"


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_tools_that_are_too_much_to_enforce_are_refused(open_house: OpenHouse, choice: str) -> None:
    house = await open_house(Script(words=HERMES, per_event=1, tool_format="hermes"))
    huge = {f"key{number}": {"type": "string"} for number in range(20_000)}
    spec = WEATHER["function"] | {"parameters": {"type": "object", "properties": huge}}
    answer = await house.chat(tools=[WEATHER | {"function": spec}], tool_choice=choice)
    assert answer.status == 400
    error = (await answer.json())["error"]
    assert error["param"] == "tools"
    assert "at most" in error["message"]


async def test_a_schema_and_tools_allow_either(caller: House) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    answer = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    await caller.chat(tools=[WEATHER], response_format=answer)
    grammar = caller.speculator.jobs[0].grammar
    assert grammar is not None
    either = json.loads(grammar.text)["anyOf"]
    assert either[0] == schema
    assert either[1]["properties"]["name"] == {"const": "weather"}
    refers = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/$defs/a", "$defs": {"a": {}}}}}
    assert (await caller.chat(tools=[WEATHER], response_format=refers)).status == 400


ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "nope"}}]},
}


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nope"}}},
        {"tools": [WEATHER, WEATHER]},
        {"tools": [], "tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": ALLOWED},
    ],
)
async def test_choices_that_cannot_be(caller: House, fields: dict[str, Any]) -> None:
    response = await caller.chat(**fields)
    assert response.status == 400
    assert (await response.json())["error"]["param"].startswith("tool")


async def test_the_end_reason_of_a_plain_answer_with_tools(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=["Just ", "text."], reason=FinishReason.STOP))
    body = await (await house.chat(tools=[WEATHER])).json()
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["content"] == "Just text."
    assert "tool_calls" not in body["choices"][0]["message"]
