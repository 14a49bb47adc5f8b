"""Nonsense of every kind: each gets a 4xx in the envelope, names its field, and leaves the edge working."""

import asyncio
import json
from typing import Any

import pytest

from tests.edge.conftest import House
from twd.edge.core import header_options
from twd.wire.failures import TwdError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"prompt": "hi"}
WRONG: dict[str, list[Any]] = {
    "model": [5, None, [], {}, "", "x" * 300],
    "max_tokens": [0, -1, 1.5, "5", True, [], 16385, 10**30],
    "temperature": [-0.1, 2.1, "1", True, [], {}, 10**30],
    "top_p": [-1, 1.01, "x", [], {}],
    "n": [0, -1, 129, "2", 1.5, True],
    "stop": ["", [""], ["a"] * 5, 5, [5], {}, ["x" * 1025], "x" * 1025, True],
    "seed": ["1", 1.5, 2**64, True, []],
    "presence_penalty": [-2.1, 2.1, "x", []],
    "frequency_penalty": [-2.1, 2.1, "x", {}],
    "logit_bias": [[], "x", {"a": 1}, {"-1": 1}, {"1": 101}, {"1": "x"}, {"1": None}],
    "stream": ["true", 1, 0, []],
    "stream_options": [True, [], {"include_usage": "x"}, {"nope": 1}],
    "user": [5, [], "x" * 1025],
    "twd": [
        5,
        "off",
        [],
        {"speculation": "fast"},
        {"speculation": -1},
        {"mode": "warp"},
        {"deadline_s": 0.01},
        {"z": 1},
    ],
    "top_k": [-1, "x", 1.5],
    "min_p": [-0.1, 1.1],
    "repeat_penalty": [0, 11, "x"],
    "repeat_last_n": [-2, 65537],
    "grammar": [5, [], "x" * 262_145],
    "nonsense": [1, None, {}],
}
WRONG_CHAT: dict[str, list[Any]] = {
    "messages": [
        None,
        [],
        "hi",
        5,
        {},
        [5],
        ["hi"],
        [None],
        [{}],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "king", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": {}}],
        [{"role": "user", "content": [5]}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"text": "x"}]}],
        [{"role": "user", "content": [{"type": "video", "video": "x"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
        [{"role": "user", "content": [{"type": "file", "file": {}}]}],
        [{"role": "user", "content": "x", "extra": 1}],
        [{"role": "tool", "content": "x"}],
        [{"role": "assistant", "tool_calls": [{}]}],
        [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}],
        [{"role": "assistant", "content": "alone"}],
        [{"role": "function", "name": "f", "content": "x"}],
    ],
    "max_completion_tokens": [0, -1, 1.5, "5", 16385],
    "logprobs": [1, "x", []],
    "top_logprobs": [-1, 21, 5, "x"],
    "response_format": [
        "json",
        {},
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": []}},
    ],
    "tools": ["x", {}, [5], [{}], [{"type": "web_search"}], [{"type": "function", "function": {"name": "a b"}}]],
    "tool_choice": ["maybe", 5, [], {"type": "function"}, {"type": "function", "function": {}}],
    "reasoning_effort": ["huge", 5],
    "verbosity": ["low", "high", 5],
    "moderation": [{"model": "x"}],
    "metadata": [[], {"a": 5}, {str(i): "x" for i in range(17)}],
    "modalities": [["audio"], "text"],
    "functions": [[], [{}]],
    "function_call": ["auto"],
    "audio": [{}],
    "web_search_options": [{}],
    "service_tier": ["gold", 5],
    "chat_template_kwargs": [[], {"a": []}, {"a": None}],
}
WRONG_TEXT: dict[str, list[Any]] = {
    "prompt": [None, 5, {}, [], [None], [{}], ["a", 1], [[1], 2], [[]], [-1], [1.5], [2**31], ["x"] * 129, [[1]] * 129],
    "suffix": [5, ["after"]],
    "echo": ["x", 1],
    "logprobs": [-1, 21, True, "x"],
    "best_of": [0, 3, "x"],
    "messages": [[]],
}


def cases() -> list[tuple[str, str, Any]]:
    """Path, field and wrong value, for every field of both APIs."""
    chat = [("/v1/chat/completions", field, value) for field, bad in (WRONG | WRONG_CHAT).items() for value in bad]
    text = [("/v1/completions", field, value) for field, bad in (WRONG | WRONG_TEXT).items() for value in bad]
    return chat + text


async def check(house: House, path: str, body: bytes, field: str) -> None:
    response = await house.post(path, body)
    answer = await response.json()
    assert 400 <= response.status < 500, (body[:200], answer)
    error = answer["error"]
    assert error["message"], body[:200]
    assert len(error["message"]) < 1000
    assert error["type"] == "invalid_request_error"
    assert field in f"{error['param']} {error['message']}", (body[:200], error)


async def test_every_wrong_value_is_a_400_that_names_its_field(house: House) -> None:
    assert len(cases()) > 250
    for path, field, value in cases():
        good = CHAT if "chat" in path else TEXT
        await check(house, path, json.dumps(good | {field: value}).encode(), field)
    assert house.speculator.jobs == []
    assert (await house.chat()).status == 200


BODIES = [
    b"",
    b"{",
    b"}",
    b"null",
    b"5",
    b'"x"',
    b"[]",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b"\xff\xfe\x00",
    b'{"messages":[{"role":"user","content":"\xff"}]}',
    b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
    b'{"messages":[{"role":"user","content":"a"}],"temperature":Infinity}',
    b'{"messages":[{"role":"user","content":"a"}],"temperature":1e999}',
    b'{"messages":[{"role":"user","content":"a"}]} trailing',
    b"messages=hi&model=small",
    b"<xml/>",
    b"--x\r\nContent-Disposition: form-data\r\n\r\n--x--",
    b"\x00" * 1000,
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_bodies_that_are_no_request(house: House, path: str) -> None:
    for body in BODIES:
        response = await house.post(path, body)
        assert response.status == 400, body[:80]
        assert "error" in await response.json()
    assert (await house.chat()).status == 200


async def test_headers_that_are_no_wish(house: House) -> None:
    for name, value in [
        ("x-twd-mode", "warp"),
        ("x-twd-speculation", "fast"),
        ("x-twd-speculation", "-1"),
        ("x-twd-speculation", "1" * 400),
        ("x-twd-deadline-s", "soon"),
        ("x-twd-deadline-s", "-1"),
        ("x-twd-deadline-s", "nan"),
        ("x-twd-exact", "maybe"),
    ]:
        response = await house.post("/v1/chat/completions", CHAT, headers={name: value})
        assert response.status == 400, (name, value)
        assert (await response.json())["error"]["param"]


@pytest.mark.parametrize("name", ["x-twd-mode", "x-twd-exact", "x-twd-speculation", "x-twd-deadline-s"])
def test_headers_that_are_no_text(name: str) -> None:
    with pytest.raises(TwdError, match=name) as caught:
        header_options({name: "\udcff"})
    assert caught.value.failure.status == 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_encoded_as_it_says(house: House, encoding: str) -> None:
    response = await house.post("/v1/chat/completions", b"this is neither", headers={"Content-Encoding": encoding})
    assert response.status == 400
    assert "body" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("depth", [300, 700, 950, 990])
async def test_schemas_that_are_nested_deeply(house: House, depth: int) -> None:
    schema = b'{"items":' * depth + b"{}" + b"}" * depth
    head = b'{"messages":[{"role":"user","content":"hi"}],'
    chat = head + b'"tools":[{"type":"function","function":{"name":"a","parameters":'
    said = head + b'"max_tokens":5,"model":"small","tools":[{"name":"a","input_schema":'
    shape = head + b'"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":'
    tool = b',"tools":[{"type":"function","function":{"name":"a"}}]'
    for path, body in [
        ("/v1/chat/completions", chat + schema + b'}}],"tool_choice":"required"}'),
        ("/v1/messages", said + schema + b'}],"tool_choice":{"type":"any"}}'),
        ("/v1/chat/completions", shape + schema + b"}}}"),
        ("/v1/chat/completions", shape + schema + b"}}" + tool + b"}"),
    ]:
        assert (await house.post(path, body)).status in (200, 400), path


async def test_paths_and_methods_that_do_not_exist(house: House) -> None:
    for method, path, status in [
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("POST", "/", 405),
        ("GET", "/static/nothing.js", 404),
        ("GET", "/static/..%2fservice.py", 404),
        ("GET", "/static/chat.html%00.js", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("DELETE", "/v1/models/small", 405),
        ("PATCH", "/v1/models", 405),
    ]:
        response = await house.http.request(method, house.edge.url + path)
        assert response.status == status, (method, path)
        told = (await response.json())["error"]
        assert told["message"]
        assert "/openapi.json" in told["advice"]


async def raw(house: House, data: bytes) -> bytes:
    """What a socket gets back for these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.edge.server.port)
    writer.write(data)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


async def test_bytes_that_are_no_http(house: House, caplog: pytest.LogCaptureFixture) -> None:
    for data in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ]:
        answer = await raw(house, data)
        assert answer.startswith(b"HTTP/1.0 400 "), (data[:60], answer[:200])
        assert b"Traceback" not in answer
    assert (await house.chat()).status == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_errors_say_what_to_do(house: House) -> None:
    for payload, words in [
        (CHAT | {"temprature": 1}, "did you mean `temperature`"),
        (CHAT | {"functions": []}, "use `tools`"),
        (CHAT | {"repetition_penalty": 1.1}, "repeat_penalty"),
        (CHAT | {"max_tokens": 20_000}, "at most 16384"),
        (CHAT | {"top_logprobs": 3}, "logprobs: true"),
    ]:
        error = (await (await house.post("/v1/chat/completions", payload)).json())["error"]
        assert words in error["message"]
        assert error["advice"]
