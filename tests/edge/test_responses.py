"""The responses API: typed events, items back and forth, what Codex-like clients need."""

import json
from typing import Any

from openai import AsyncOpenAI

from tests.edge.conftest import IN_EVERY_MODE, House, OpenHouse
from tests.edge.fake_speculator import WORDS, Script
from tests.edge.test_tools import HERMES
from twd.wire.job import GrammarKind

pytestmark = IN_EVERY_MODE
TEXT = "".join(WORDS)
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


async def stream_of(house: House, **fields: Any) -> list[dict[str, Any]]:
    response = await house.post("/v1/responses", {"model": "small", "input": "hi", "stream": True} | fields)
    found = []
    for block in (await response.text()).strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def test_a_whole_response(house: House) -> None:
    body = await (await house.post("/v1/responses", {"model": "small", "input": "hi", "instructions": "short"})).json()
    assert body["object"] == "response"
    assert body["status"] == "completed"
    (item,) = body["output"]
    assert item["type"] == "message"
    assert item["content"] == [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}]
    assert body["usage"]["input_tokens_details"]["cached_tokens"] == 4
    sent = house.jobs[0].prompt.messages or []
    assert [(message.role, message.content) for message in sent] == [("system", "short"), ("user", "hi")]


async def test_a_streamed_response(house: House) -> None:
    events = await stream_of(house)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == TEXT
    assert events[0]["response"]["output"] == []
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
    assert events[-1]["response"]["status"] == "completed"


async def test_calls_and_their_results(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=HERMES, per_event=1))
    events = await stream_of(house, tools=[WEATHER, {"type": "web_search"}, {"type": "namespace", "name": "x"}])
    done = events[-1]["response"]["output"]
    assert [item["type"] for item in done] == ["message", "function_call"]
    assert json.loads(done[1]["arguments"]) == {"city": "Ulm"}
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas) == done[1]["arguments"]
    call = done[1]
    back = [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "r", "summary": []},
        done[0],
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"},
    ]
    assert (await house.post("/v1/responses", {"input": back, "tools": [WEATHER]})).status == 200
    sent = house.jobs[-1].prompt.messages or []
    assert [message.role for message in sent] == ["user", "assistant", "tool"]
    assert sent[1].content == "Let me look."
    assert sent[1].tool_calls[0].name == "weather"
    assert len(house.jobs[0].prompt.tools) == 1


async def test_the_official_client(house: House) -> None:
    async with AsyncOpenAI(base_url=house.edge.url + "/v1", api_key="none", max_retries=0) as openai:
        answer = await openai.responses.create(model="small", input="hi")
        assert answer.output_text == TEXT
        async with openai.responses.stream(model="small", input="hi") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert final.output_text == TEXT
        assert kinds[-1] == "response.completed"


async def test_a_probe_with_nothing_in_it(house: House) -> None:
    probes: list[dict[str, Any]] = [{}, {"input": ""}, {"input": []}]
    for nothing in probes:
        response = await house.post("/v1/responses", {"model": "small", "max_output_tokens": 1} | nothing)
        body = await response.json()
        assert response.status == 200
        assert body["status"] == "incomplete"
        assert body["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_formats_and_efforts(house: House) -> None:
    schema = {"type": "object", "properties": {}}
    text: Any = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    response = await house.post("/v1/responses", {"input": "x", "text": text, "reasoning": {"effort": "low"}})
    assert response.status == 200
    job = house.jobs[0]
    assert job.grammar is not None
    assert (job.grammar.kind, job.grammar.field) == (GrammarKind.JSON_SCHEMA, "text.format.schema")
    assert job.prompt.template_args == {"reasoning_effort": "low"}
    assert (await response.json())["text"]["format"]["name"] == "x"
    text["format"]["schema"] = {"$ref": "#/$defs/a", "$defs": {"a": schema}}
    refused = await house.post("/v1/responses", {"input": "x", "text": text, "tools": [WEATHER]})
    assert (await refused.json())["error"]["param"] == "text.format.schema"


async def test_a_failure_midway(open_house: OpenHouse) -> None:
    house = await open_house(Script(fail_after=4))
    events = await stream_of(house)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-1]["response"]["error"] == {"code": "out_of_memory", "message": "no memory left"}
    assert [item["status"] for item in events[-1]["response"]["output"]] == ["incomplete"]


async def test_a_failure_of_a_stream_in_which_nothing_was_said(open_house: OpenHouse) -> None:
    house = await open_house(Script(hang_after=0, fail_after=0), keepalive_s=0.02)
    openai = AsyncOpenAI(base_url=house.edge.url + "/v1", api_key="none", max_retries=0)
    async with openai, openai.responses.stream(model="small", input="hi") as stream:
        house.speculator.release.set()
        kinds = [event.type async for event in stream]
    assert kinds == ["response.created", "response.in_progress", "error", "response.failed"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "c"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"background": True}, "background"),
    ({"input": 5}, "input"),
    ({"input": [5]}, "input[0]"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "nope"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "function_call", "name": "x"}]}, "input[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 99999}, "max_output_tokens"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"nonsense": 1}, "nonsense"),
]


async def test_nonsense(house: House) -> None:
    for fields, where in BAD:
        response = await house.post("/v1/responses", {"input": "x"} | fields)
        assert response.status == 400, fields
        error = (await response.json())["error"]
        assert where in f"{error['param']} {error['message']}", (fields, error)
    assert house.jobs == []


async def test_what_changes_an_answer_is_done_or_refused(house: House) -> None:
    for fields, where in (
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"background": True}, "background"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "x"}}, "moderation"),
    ):
        response = await house.post("/v1/responses", {"input": "x"} | fields)
        error = (await response.json())["error"]
        assert (response.status, error["param"], error["code"]) == (400, where, "unsupported"), fields
        assert "is not supported: " in error["message"]
    harmless = {"text": {"verbosity": "medium"}, "max_tool_calls": 1, "top_logprobs": 0, "prompt_cache_options": {}}
    assert (await house.post("/v1/responses", {"input": "x"} | harmless)).status == 200


async def test_a_conversation_may_be_truncated_where_it_says_so(house: House) -> None:
    for wish in ("auto", "disabled", None):
        response = await house.post("/v1/responses", {"input": "hi", "truncation": wish})
        assert (await response.json())["truncation"] == (wish or "disabled")
    assert [job.prompt.truncate for job in house.jobs] == [True, False, False]


async def test_log_probabilities_are_refused_and_not_left_out(house: House) -> None:
    response = await house.post("/v1/responses", {"input": "hi", "include": ["message.output_text.logprobs"]})
    assert response.status == 400
    assert (await response.json())["error"]["param"] == "include"
    assert (
        await house.post("/v1/responses", {"input": "hi", "include": ["reasoning.encrypted_content"]})
    ).status == 200
