"""OpenAI's APIs over HTTP, as plain programs call them."""

import json
from typing import Any

from tests.edge.conftest import IN_EVERY_MODE, House, OpenHouse
from tests.edge.fake_speculator import WORDS, Script
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import GrammarKind

pytestmark = IN_EVERY_MODE
TEXT = "".join(WORDS)


async def events(response: Any) -> list[Any]:
    """The data lines of a stream; `[DONE]` stays text."""
    raw = await response.text()
    assert raw.endswith("\n\n")
    found = []
    for block in raw.split("\n\n"):
        if block.startswith("data: "):
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


async def test_a_whole_chat_answer(house: House) -> None:
    response = await house.chat(model="small", seed=5)
    body = await response.json()
    assert response.status == 200
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["prompt_tokens"] == 11
    assert body["usage"]["completion_tokens"] == len(WORDS)
    assert body["usage"]["total_tokens"] == 11 + len(WORDS)
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert body["system_fingerprint"] == "fp_test"
    assert body["twd"]["seed"] == 5
    assert body["twd"]["mode"] == house.mode
    assert body["twd"]["acceptance"] == (1.0 if house.mode == "gate" else 0.5)
    assert body["twd"]["tokens_per_pass"] == (3.5 if house.mode == "gate" else 1.75)
    assert response.headers["x-twd-job"] == body["twd"]["job"]
    assert response.headers["x-twd-seed"] == "5"


async def test_what_was_held_back_to_the_end_is_no_token_more(open_house: OpenHouse) -> None:
    house = await open_house(Script(tail="\n"))
    body = await (await house.chat()).json()
    assert body["choices"][0]["message"]["content"] == TEXT + "\n"
    assert body["usage"]["completion_tokens"] == len(WORDS)


async def test_a_streamed_chat_answer(house: House) -> None:
    response = await house.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["Content-Type"].startswith("text/event-stream")
    chunks = await events(response)
    assert chunks.pop() == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == TEXT
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "stop"
    assert sum(bool(c["choices"] and c["choices"][0]["finish_reason"]) for c in chunks) == 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(WORDS)
    assert all(c["usage"] is None for c in chunks[:-1])
    assert chunks[-1]["twd"]["job"] == response.headers["x-twd-job"]
    assert len({c["id"] for c in chunks}) == 1


async def test_chunks_can_say_what_was_guessed(house: House) -> None:
    plain = await events(await house.chat(stream=True))
    assert not any("twd_mark" in chunk for chunk in plain[:-1])
    marked = await events(await house.chat(stream=True, twd={"marks": True}))
    marks = [chunk["twd_mark"] for chunk in marked[:-1] if "twd_mark" in chunk]
    whole = {"tokens": 7, "checked": 7, "taken": 7, "drafter": "quick"}
    assert marks[0] == (whole if house.mode == "gate" else {"tokens": 2, "checked": 4, "taken": 1, "drafter": "ngram"})
    assert sum(mark["tokens"] for mark in marks) == len(WORDS)


async def test_without_include_usage_every_chunk_has_a_choice(house: House) -> None:
    chunks = await events(await house.chat(stream=True))
    assert all(chunk["choices"] for chunk in chunks[:-1])
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert chunks[-2]["twd"]["passes"] == (2 if house.mode == "gate" else 4)


async def test_several_choices_have_their_own_seeds(house: House) -> None:
    body = await (await house.chat(n=3, seed=7)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert sorted(job.sampling.seed or 0 for job in house.jobs) == [7, 8, 9]
    assert body["usage"]["prompt_tokens"] == 11
    assert body["usage"]["completion_tokens"] == 3 * len(WORDS)
    assert len(body["twd"]["jobs"]) == 3


async def test_choices_of_a_long_prompt_are_bounded(house: House) -> None:
    said = {"messages": [{"role": "user", "content": "a" * 512 * 1024}]}
    refused = await house.chat(n=16, **said)
    assert refused.status == 400
    assert (await refused.json())["error"]["param"] == "n"
    assert house.jobs == []
    assert (await house.chat(n=2, **said)).status == 200


async def test_several_choices_in_one_stream(house: House) -> None:
    chunks = await events(await house.chat(n=2, stream=True))
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: TEXT, 1: TEXT}
    assert ["twd" in chunk for chunk in chunks[:-1]].count(True) == 1


async def test_the_job_has_what_the_request_said(house: House) -> None:
    await house.chat(
        temperature=0.3,
        top_p=0.9,
        max_completion_tokens=3,
        stop=["a", "b", "a"],
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"12": -100},
        logprobs=True,
        top_logprobs=2,
        top_k=40,
        min_p=0.1,
        twd={"speculation": 7, "deadline_s": 20},
        user="me",
        metadata={"a": "b"},
        store=True,
    )
    job = house.jobs[0]
    assert job.model == "small"
    assert job.owner == house.edge.instance
    assert (job.max_tokens, job.stop, job.logprobs, job.deadline_ms) == (3, ["a", "b"], 2, 20_000)
    assert job.sampling.temperature == 0.3
    assert job.sampling.logit_bias == {12: -100}
    assert (job.sampling.presence_penalty, job.sampling.frequency_penalty) == (0.5, -0.5)
    assert (job.sampling.top_p, job.sampling.top_k, job.sampling.min_p) == (0.9, 40, 0.1)
    assert (job.speculation.enabled, job.speculation.window) == (True, 7)
    assert job.sampling.seed is not None


async def test_a_job_of_every_api_says_when_its_request_came(house: House) -> None:
    before = house.edge.clock.wall_ms()
    said = [{"role": "user", "content": "hi"}]
    await house.post("/v1/chat/completions", {"messages": said})
    await house.post("/v1/completions", {"prompt": "hi"})
    await house.post("/v1/responses", {"input": "hi"})
    await house.post("/v1/messages", {"model": "small", "max_tokens": 5, "messages": said})
    times = [job.created_ms for job in house.jobs]
    assert len(times) == 4
    assert all(before <= time <= house.edge.clock.wall_ms() for time in times)


async def test_defaults_are_openais(house: House) -> None:
    await house.chat()
    job = house.jobs[0]
    assert job.sampling.temperature == 1.0
    assert (job.max_tokens, job.stop, job.logprobs, job.grammar) == (None, [], None, None)
    assert job.speculation.enabled


async def test_max_tokens_ends_with_length(house: House) -> None:
    body = await (await house.chat(max_tokens=2)).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["content"] == "Hello"


async def test_headers_carry_wishes_and_the_body_wins(house: House) -> None:
    headers = {"x-twd-mode": "direct", "x-twd-deadline-s": "3"}
    payload = {"messages": [{"role": "user", "content": "x"}], "twd": {"deadline_s": 4}}
    response = await house.post("/v1/chat/completions", payload, headers=headers)
    assert response.headers["x-twd-mode"] == "direct"
    job = house.jobs[0]
    assert not job.speculation.enabled
    assert job.deadline_ms == 4000


async def test_exact_is_promised_only_where_it_was_measured(house: House) -> None:
    assert (await house.chat(twd={"exact": True})).status == 200
    house.edge.models._exact.clear()
    refused = await house.chat(twd={"exact": True})
    assert refused.status == 400
    assert "measured" in (await refused.json())["error"]["message"]


async def test_messages_of_every_role(house: House) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"q":1}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "bob"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    response = await house.post("/v1/chat/completions", {"messages": messages})
    assert response.status == 200
    sent = house.jobs[0].prompt.messages or []
    assert [message.role for message in sent] == ["developer", "user", "assistant", "tool"]
    assert sent[1].content == "a\nb"
    assert sent[1].name == "bob"
    assert sent[2].tool_calls[0].arguments == '{"q":1}'
    assert sent[3].tool_call_id == "c1"


async def test_a_last_assistant_message_is_continued(house: House) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Once upon"}]
    await house.post("/v1/chat/completions", {"messages": messages})
    prompt = house.jobs[0].prompt
    assert prompt.prefill == "Once upon"
    assert [message.role for message in prompt.messages or []] == ["user"]


async def test_response_formats_become_grammars(house: House) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    await house.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    await house.chat(response_format={"type": "json_object"})
    await house.chat(response_format={"type": "text"})
    await house.chat(grammar='root ::= "yes"')
    first, second, third, fourth = (job.grammar for job in house.jobs)
    assert first is not None
    assert first.kind is GrammarKind.JSON_SCHEMA
    assert json.loads(first.text) == schema
    assert second is not None
    assert second.kind is GrammarKind.JSON
    assert third is None
    assert fourth is not None
    assert fourth.kind is GrammarKind.GBNF


async def test_logprobs_in_chats(house: House) -> None:
    body = await (await house.chat(logprobs=True, top_logprobs=2)).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in content] == WORDS
    assert bytes(content[5]["bytes"]).decode() == " 👋"
    assert [top["token"] for top in content[0]["top_logprobs"]] == ["Hel0", "Hel1"]
    chunks = await events(await house.chat(logprobs=True, stream=True))
    streamed = [t for c in chunks[:-1] if c["choices"][0]["logprobs"] for t in c["choices"][0]["logprobs"]["content"]]
    assert [token["token"] for token in streamed] == WORDS


async def test_completions_whole_and_streamed(house: House) -> None:
    body = await (await house.post("/v1/completions", {"prompt": "Once", "echo": True, "max_tokens": 2})).json()
    assert body["object"] == "text_completion"
    assert body["choices"][0] == {"index": 0, "text": "OnceHello", "logprobs": None, "finish_reason": "length"}
    assert house.jobs[0].prompt.text == "Once"
    response = await house.post("/v1/completions", {"prompt": "Once", "echo": True, "stream": True})
    chunks = await events(response)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == "Once" + TEXT
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


async def test_many_prompts(house: House) -> None:
    body = await (await house.post("/v1/completions", {"prompt": ["a", "b"], "n": 2})).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [job.prompt.text for job in house.jobs] == ["a", "a", "b", "b"]
    assert body["usage"]["prompt_tokens"] == 22
    await house.post("/v1/completions", {"prompt": [1, 2, 3]})
    assert house.jobs[-1].prompt.tokens == [1, 2, 3]
    await house.post("/v1/completions", {"prompt": [[1, 2], [3]]})
    assert [job.prompt.tokens for job in house.jobs[-2:]] == [[1, 2], [3]]


async def test_logprobs_in_completions(house: House) -> None:
    body = await (await house.post("/v1/completions", {"prompt": "x", "logprobs": 1, "max_tokens": 3})).json()
    found = body["choices"][0]["logprobs"]
    assert found["tokens"] == WORDS[:3]
    assert found["text_offset"] == [0, 3, 5]
    assert found["top_logprobs"][0] == {"Hel0": -0.5}


async def test_models_and_their_cards(house: House) -> None:
    body = await (await house.http.get(house.edge.url + "/v1/models")).json()
    card = next(one for one in body["data"] if one["id"] == "small")
    aliases = [one for one in body["data"] if "alias_of" in one["twd"]]
    assert [(alias["id"], alias["twd"]["alias_of"]) for alias in aliases] == [("default", "small"), ("twd", "small")]
    assert card["twd"]["ready"] is True
    assert card["twd"]["ctx_size"] == 8192
    for name in ("small", "default", "twd"):
        one = await (await house.http.get(house.edge.url + f"/v1/models/{name}")).json()
        assert one["id"] == name
        assert one["twd"].get("alias_of", name) == "small"
    missing = await house.http.get(house.edge.url + "/v1/models/nope")
    assert missing.status == 404


async def test_an_unknown_model_names_the_known_ones(house: House) -> None:
    response = await house.chat(model="gpt-9")
    error = (await response.json())["error"]
    assert response.status == 404
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "small" in error["message"]
    assert (await house.chat(model="default")).status == 200
    assert (await house.chat(model="twd")).status == 200


async def test_health_and_status(house: House) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await house.http.get(house.edge.url + path)).status == 200
    status = await (await house.http.get(house.edge.url + "/v1/twd/status")).json()
    assert status["default_model"] == "small"
    assert status["warnings"] == []
    assert status["edge"]["bus_connected"] is True
    assert "speculator" in [service["service"] for service in status["services"]]


async def test_not_ready_without_a_model(open_house: OpenHouse) -> None:
    house = await open_house()
    await house.speculator.stop()
    await house.edge._refresh()
    response = await house.http.get(house.edge.url + "/readyz")
    assert response.status == 503
    assert (await response.json())["reasons"]


async def test_a_refusal_before_the_first_token_is_a_status(open_house: OpenHouse) -> None:
    failure = Failure(code=FailureCode.CONTEXT_OVERFLOW, message="9000 tokens; 8192 fit")
    house = await open_house(Script(refuse=failure))
    for stream in (False, True):
        response = await house.chat(stream=stream)
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "context_length_exceeded"


async def test_a_prompt_that_does_not_fit_is_told_of_the_field_it_came_in(open_house: OpenHouse) -> None:
    failure = Failure(code=FailureCode.CONTEXT_OVERFLOW, message="9000 tokens; 8192 fit", field="prompt")
    house = await open_house(Script(refuse=failure))
    asked: list[tuple[str, str, object]] = [
        ("/v1/chat/completions", "messages", [{"role": "user", "content": "hi"}]),
        ("/v1/responses", "input", "hi"),
        ("/v1/completions", "prompt", "hi"),
    ]
    for path, field, value in asked:
        response = await house.post(path, {field: value})
        assert (await response.json())["error"]["param"] == field
    turns = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    message = (await (await house.post("/v1/messages", turns)).json())["error"]["message"]
    assert message == "messages: 9000 tokens; 8192 fit"


async def test_a_failure_midway_is_an_event_and_a_clean_end(open_house: OpenHouse) -> None:
    house = await open_house(Script(fail_after=4))
    chunks = await events(await house.chat(stream=True))
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["error"]["code"] == "out_of_memory"
    whole = await house.chat()
    assert whole.status == 503
    assert (await whole.json())["error"]["message"] == "no memory left"
