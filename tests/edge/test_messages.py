"""Anthropic's API: messages whole and streamed, tools, counting, errors in its envelope."""

import json
from datetime import datetime
from typing import Any

import pytest

from tests.edge.conftest import IN_EVERY_MODE, House, OpenHouse
from tests.edge.fake_speculator import WORDS, Script
from tests.edge.test_tools import HERMES
from twd.wire.failures import Failure, FailureCode

pytestmark = IN_EVERY_MODE
TEXT = "".join(WORDS)
HI: dict[str, Any] = {"model": "small", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
WEATHER = {
    "name": "weather",
    "description": "Tells the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


async def stream_of(house: House, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream; each says its type twice."""
    response = await house.post("/v1/messages", HI | {"stream": True} | fields)
    assert response.headers["Content-Type"].startswith("text/event-stream")
    found = []
    for block in (await response.text()).strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


async def test_a_whole_message(house: House) -> None:
    response = await house.post("/v1/messages", HI, headers={"anthropic-version": "2023-06-01", "x-api-key": "x"})
    body = await response.json()
    assert body["type"] == "message"
    assert body["role"] == "assistant"
    assert body["content"] == [{"type": "text", "text": TEXT}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    assert body["usage"] == {
        "input_tokens": 7,
        "output_tokens": len(WORDS),
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 0,
    }
    assert body["twd"]["mode"] == house.mode


async def test_the_list_of_models_is_anthropics_too(house: House) -> None:
    listed = await (await house.http.get(house.edge.url + "/v1/models")).json()
    ids = [card["id"] for card in listed["data"]]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, ids[0], ids[-1])
    card = await (await house.http.get(house.edge.url + "/v1/models/default")).json()
    assert (card["type"], card["id"], card["display_name"]) == ("model", "default", "small")
    assert datetime.fromisoformat(card["created_at"]).timestamp() == card["created"]


async def test_a_streamed_message(house: House) -> None:
    events = await stream_of(house)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert "".join(event["delta"]["text"] for event in events[2:-3]) == TEXT
    assert events[0]["message"]["usage"]["input_tokens"] == 7
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == len(WORDS)


async def test_a_call_between_text(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=HERMES, per_event=1))
    events = await stream_of(house, tools=[WEATHER])
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [start["type"] for start in starts] == ["text", "tool_use"]
    assert starts[1]["name"] == "weather"
    assert starts[1]["id"].startswith("toolu_")
    assert starts[1]["input"] == {}
    pieces = [event["delta"] for event in events if event["type"] == "content_block_delta" and event["index"] == 1]
    assert json.loads("".join(piece["partial_json"] for piece in pieces)) == {"city": "Ulm"}
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stops == [0, 1]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    body = await (await house.post("/v1/messages", HI | {"tools": [WEATHER]})).json()
    assert body["content"][1]["input"] == {"city": "Ulm"}
    assert body["stop_reason"] == "tool_use"


async def test_arguments_that_are_nested_without_end_are_kept_as_text(open_house: OpenHouse) -> None:
    deep = '{"city": ' + "[" * 20_000 + "]" * 20_000 + "}"
    house = await open_house(Script(words=['<tool_call>{"name": "weather", "arguments": ', deep, "}</tool_call>"]))
    response = await house.post("/v1/messages", HI | {"tools": [WEATHER]})
    assert response.status == 200
    assert (await response.json())["content"][0]["input"] == {"arguments": deep}


async def test_what_the_model_gets(house: House) -> None:
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "b"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                {"type": "text", "text": "and?"},
            ],
        },
        {"role": "assistant", "content": "It is"},
    ]
    request = HI | {
        "system": [{"type": "text", "text": "be brief"}],
        "messages": conversation,
        "tools": [WEATHER],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["END"],
        "top_k": 5,
        "thinking": {"type": "disabled"},
        "metadata": {"user_id": "u"},
    }
    assert (await house.post("/v1/messages?beta=true", request)).status == 200
    job = house.jobs[0]
    sent = [(message.role, message.content) for message in job.prompt.messages or []]
    assert sent == [
        ("system", "be brief"),
        ("user", "a"),
        ("assistant", "b"),
        ("tool", "rain"),
        ("tool", "Error: no"),
        ("user", "and?"),
    ]
    assert job.prompt.prefill == "It is"
    assert job.prompt.template_args == {"enable_thinking": False}
    assert (job.stop, job.max_tokens, job.sampling.top_k) == (["END"], 100, 5)
    assert json.loads(bytes(job.prompt.tools[0]))["function"]["name"] == "weather"


@pytest.mark.parametrize("where", ["output_config.format", "output_format"])
async def test_the_shape_of_the_answer_and_how_much_to_think(house: House, where: str) -> None:
    shape: Any = {"type": "json_schema", "schema": {"type": "object", "properties": {}}}
    effort: Any = {"effort": "medium"}
    asked: dict[str, Any] = {"output_config": effort, "output_format": shape}
    if "config" in where:
        asked = {"output_config": effort | {"format": shape}}
    assert (await house.post("/v1/messages", HI | asked)).status == 200
    job = house.jobs[0]
    assert job.prompt.template_args == {"reasoning_effort": "medium"}
    assert job.grammar is not None
    assert json.loads(job.grammar.text) == shape["schema"]
    assert job.grammar.field == f"{where}.schema"
    assert (await house.post("/v1/messages/count_tokens", HI | asked)).status == 400  # it takes no max_tokens
    del (counted := HI | asked)["max_tokens"]
    assert (await house.post("/v1/messages/count_tokens", counted)).status == 200


async def test_tools_as_coding_agents_send_them(house: House) -> None:
    name = "mcp__plugin_a_server_with_quite_a_name__and_a_tool_with_another_one_of_its_own"
    tool = WEATHER | {"name": name, "eager_input_streaming": True, "defer_loading": False}
    request = HI | {"tools": [tool], "tool_choice": {"type": "tool", "name": name}}
    assert (await house.post("/v1/messages", request)).status == 200
    assert json.loads(bytes(house.jobs[0].prompt.tools[0]))["function"]["name"] == name


async def test_only_a_stop_sequence_that_was_asked_for_is_told(open_house: OpenHouse) -> None:
    house = await open_house(Script(stop="\nuser:"))
    body = await (await house.post("/v1/messages", HI)).json()
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    body = await (await house.post("/v1/messages", HI | {"stop_sequences": ["END", "\nuser:"]})).json()
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "\nuser:")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_forced_calls(house: House, choice: dict[str, Any]) -> None:
    await house.post("/v1/messages", HI | {"tools": [WEATHER], "tool_choice": choice})
    assert house.jobs[0].grammar is not None


async def test_counting_ends_before_the_model_writes(open_house: OpenHouse) -> None:
    house = await open_house(Script(hang_after=0))
    counted = await house.post("/v1/messages/count_tokens", {"model": "small", "messages": HI["messages"]})
    assert await counted.json() == {"input_tokens": 11}
    assert len(house.edge.tracker) == 0


async def test_every_api_tells_what_a_relay_counts_only_at_the_end(open_house: OpenHouse) -> None:
    house = await open_house(Script(counts_at_once=False))
    chat = (await (await house.chat()).json())["usage"]
    assert (chat["prompt_tokens"], chat["prompt_tokens_details"]["cached_tokens"]) == (11, 4)
    response = (await (await house.post("/v1/responses", {"input": "hi"})).json())["usage"]
    assert (response["input_tokens"], response["input_tokens_details"]["cached_tokens"]) == (11, 4)
    message = (await (await house.post("/v1/messages", HI)).json())["usage"]
    assert (message["input_tokens"], message["cache_read_input_tokens"]) == (7, 4)
    assert (await stream_of(house))[-2]["usage"]["input_tokens"] == 7
    counted = await house.post("/v1/messages/count_tokens", {"model": "small", "messages": HI["messages"]})
    assert await counted.json() == {"input_tokens": 11}


async def test_length_and_failures(open_house: OpenHouse) -> None:
    house = await open_house(Script(fail_after=4))
    events = await stream_of(house)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["message"] == "no memory left"
    refused = await open_house(Script(refuse=Failure(code=FailureCode.CONTEXT_OVERFLOW, message="too long")))
    response = await refused.post("/v1/messages", HI)
    assert response.status == 400
    assert (await response.json())["error"]["type"] == "invalid_request_error"
    short = await open_house()
    body = await (await short.post("/v1/messages", HI | {"max_tokens": 2})).json()
    assert body["stop_reason"] == "max_tokens"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"temperature": 1.5}, "temperature"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "messages[0].content[0].type"),
    ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search", "input_schema": {}}]}, "tools[0].type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "perhaps"}}, "tool_choice"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
    ({"tools": [WEATHER | {"name": "x" * 129}]}, "tools[0].name"),
    ({"system": 5}, "system"),
    ({"nonsense": 1}, "nonsense"),
    ({"mcp_servers": []}, "mcp_servers"),
]


async def test_nonsense_in_anthropics_envelope(house: House) -> None:
    for fields, where in BAD:
        response = await house.post("/v1/messages", HI | fields)
        body = await response.json()
        assert response.status == 400, fields
        assert body["type"] == "error"
        assert body["error"]["type"] == "invalid_request_error"
        assert where in body["error"]["message"], body
    missing = await house.post("/v1/messages", HI | {"model": "claude-9"})
    assert missing.status == 404
    assert (await missing.json())["error"]["type"] == "not_found_error"
    assert (await house.http.get(house.edge.url + "/v1/messages")).status == 405
    assert house.jobs == []


async def test_more_tokens_than_the_house_gives_are_as_many_as_it_gives(house: House) -> None:
    """Agents ask for the most that Anthropic's models can write, whatever they need."""
    assert (await house.post("/v1/messages", HI | {"max_tokens": 32_000})).status == 200
    assert house.jobs[-1].max_tokens == 16_384
    assert house.jobs[-1].at_most, "and as many as its context has room for"
