"""Models that think before they answer: thoughts stand apart in every API, and come back to the model's template."""

from typing import Any

import pytest

from tests.edge import test_messages, test_responses
from tests.edge.conftest import IN_EVERY_MODE, House, OpenHouse
from tests.edge.fake_speculator import Script
from tests.edge.test_openai_client import client
from tests.edge.test_openai_http import events
from twd.wire.job import Thoughts

pytestmark = IN_EVERY_MODE
WORDS = ["<th", "ink>\n", "The capital", " of Nor", "way", "?\n</", "think>", "\n\nOs", "lo."]
THOUGHT, ANSWER = "The capital of Norway?", "Oslo."
DETAILS = {"reasoning_tokens": 6, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}


@pytest.fixture(params=[1, 3, 8], ids="{} tokens a piece".format)
async def thinker(open_house: OpenHouse, request: pytest.FixtureRequest) -> House:
    """A model that thinks first."""
    return await open_house(Script(words=WORDS, per_event=request.param, thoughts=Thoughts("<think>", "</think>")))


async def test_a_whole_answer(thinker: House) -> None:
    body = await (await thinker.chat()).json()
    message = body["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (THOUGHT, ANSWER)
    assert body["usage"]["completion_tokens"] == len(WORDS)
    assert body["usage"]["completion_tokens_details"] == DETAILS


async def test_a_stream(thinker: House) -> None:
    chunks = await events(await thinker.chat(stream=True, stream_options={"include_usage": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-2]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == THOUGHT
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER
    assert chunks[-2]["usage"]["completion_tokens_details"] == DETAILS


async def test_a_piece_of_text_is_one_chunk(open_house: OpenHouse) -> None:
    script = Script(words=["Let", " me", " see"], per_event=3, thoughts=Thoughts("<think>", "</think>", open=True))
    chunks = await events(await (await open_house(script)).chat(stream=True))
    told = [chunk["choices"][0]["delta"].get("reasoning_content") for chunk in chunks[:-1]]
    assert [text for text in told if text] == ["Let me see"]


async def test_the_official_client_sees_the_thoughts(thinker: House) -> None:
    async with client(thinker) as openai:
        answer = await openai.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
    message = answer.choices[0].message
    assert (message.model_extra or {})["reasoning_content"] == THOUGHT
    assert message.content == ANSWER


async def test_who_wants_the_text_as_it_was_written_gets_it(thinker: House) -> None:
    body = await (await thinker.chat(reasoning_format="none")).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "".join(WORDS), "refusal": None}
    assert "completion_tokens_details" not in body["usage"]
    refused = await thinker.chat(reasoning_format="loud")
    assert refused.status == 400
    assert (await refused.json())["error"]["param"] == "reasoning_format"


async def test_an_answer_that_is_cut_in_a_thought_has_no_content(open_house: OpenHouse) -> None:
    marks = Thoughts("<think>", "</think>", open=True)
    house = await open_house(Script(words=["Let me", " see"], per_event=1, thoughts=marks))
    message = (await (await house.chat()).json())["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Let me see", "")


async def test_a_model_that_does_not_think_is_left_alone(house: House) -> None:
    message = (await (await house.chat()).json())["choices"][0]["message"]
    assert "reasoning_content" not in message


async def test_anthropics_message(thinker: House) -> None:
    body = await (await thinker.post("/v1/messages", test_messages.HI)).json()
    assert body["content"] == [
        {"type": "thinking", "thinking": THOUGHT, "signature": ""},
        {"type": "text", "text": ANSWER},
    ]
    told = await test_messages.stream_of(thinker)
    starts = [event["content_block"] for event in told if event["type"] == "content_block_start"]
    assert starts == [{"type": "thinking", "thinking": "", "signature": ""}, {"type": "text", "text": ""}]
    deltas = [(event["index"], event["delta"]) for event in told if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for index, delta in deltas if index == 0) == THOUGHT
    assert "".join(delta.get("text", "") for index, delta in deltas if index == 1) == ANSWER
    assert {delta["type"] for _, delta in deltas} == {"thinking_delta", "text_delta"}


async def test_a_response(thinker: House) -> None:
    told = await test_responses.stream_of(thinker)
    whole = told[-1]["response"]
    thought, message = whole["output"]
    assert thought["type"] == "reasoning"
    assert (thought["summary"], thought["status"]) == ([], "completed")
    assert thought["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
    assert message["content"][0]["text"] == ANSWER
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 6}
    kinds = [event["type"].removeprefix("response.") for event in told]
    assert kinds[2:5] == ["output_item.added", "content_part.added", "reasoning_text.delta"]
    ended = kinds.index("reasoning_text.done")
    assert kinds[ended : ended + 4] == [
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
    ]
    assert "".join(event["delta"] for event in told if event["type"] == "response.reasoning_text.delta") == THOUGHT


CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "Oslo.", "reasoning_content": THOUGHT},
    {"role": "user", "content": "and?"},
]
BLOCKS: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": THOUGHT, "signature": ""}, {"type": "text", "text": "Oslo."}],
    },
    {"role": "user", "content": "and?"},
]
ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": THOUGHT}]},
    {"role": "assistant", "content": "Oslo."},
    {"role": "user", "content": "and?"},
]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/v1/messages", {"messages": BLOCKS, "max_tokens": 10}),
        ("/v1/responses", {"input": ITEMS}),
    ],
)
async def test_what_was_thought_goes_back_to_the_template(house: House, path: str, body: dict[str, Any]) -> None:
    assert (await house.post(path, body)).status == 200
    sent = house.jobs[0].prompt.messages or []
    assert [(message.role, message.content, message.thoughts) for message in sent] == [
        ("user", "hi", ""),
        ("assistant", "Oslo.", THOUGHT),
        ("user", "and?", ""),
    ]


async def test_a_thought_before_a_call_belongs_to_its_turn(house: House) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "rain"}
    items = [ITEMS[0], ITEMS[1], call, result]
    assert (await house.post("/v1/responses", {"input": items})).status == 200
    sent = house.jobs[0].prompt.messages or []
    assert [(message.role, message.thoughts, len(message.tool_calls)) for message in sent] == [
        ("user", "", 0),
        ("assistant", THOUGHT, 1),
        ("tool", "", 0),
    ]
