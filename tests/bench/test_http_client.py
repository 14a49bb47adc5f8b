"""A client of any OpenAI-compatible server: what came when, and refusals in words."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from twd.bench.product.http_client import Question, Server, ask_all, with_headers
from twd.wire.failures import TwdError

QUESTIONS = [Question(name, [{"role": "user", "content": name}]) for name in ("one", "two", "three")]


def _event(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode()


async def _answer(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    if request.headers.get("x-refuse"):
        return web.json_response({"error": {"message": "no"}}, status=503)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n')
    for word in (body["messages"][-1]["content"], "said"):
        await response.write(_event(word))
    if request.headers.get("x-break"):
        await response.write(b'data: {"error":{"message":"lost"}}\n\n')
    else:
        await response.write(b'data: {"choices":[],"usage":{"completion_tokens":7}}\n\ndata: [DONE]\n\n')
    return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _answer)
    async with TestServer(app) as running:
        yield Server(str(running.make_url("")).rstrip("/"))


@pytest.mark.parametrize("clients", [1, 2, 5])
async def test_replies_are_in_the_order_of_the_questions(server: Server, clients: int) -> None:
    replies, seconds = await ask_all(server, QUESTIONS, 16, clients)
    assert [reply.question for reply in replies] == ["one", "two", "three"]
    assert [reply.tokens for reply in replies] == [7, 7, 7]
    assert len({reply.text_hash for reply in replies}) == 3
    assert all(len(reply.arrivals_ms) == 2 and reply.first_ms > 0 for reply in replies), "a role is no text"
    assert seconds > 0


@pytest.mark.parametrize(("header", "words"), [("x-refuse", "answered 503"), ("x-break", "lost")])
async def test_what_fails_is_told(server: Server, header: str, words: str) -> None:
    with pytest.raises(TwdError, match=words):
        await ask_all(with_headers(server, {header: "1"}), QUESTIONS, 16)
