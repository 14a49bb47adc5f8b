"""A server that answers at once: what is measured over it is what stands in front of it.

usage: python upstream.py PORT [PACE]     (PACE: seconds between two words of a stream; none otherwise)
"""

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

PACE_S = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
HEAD = {"id": "u-1", "created": 1, "model": "fake"}


def words(body: dict[str, Any]) -> list[str]:
    """As many words as were asked for."""
    return ["word "] * int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)


def usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": count + 5}


async def chat(request: web.Request) -> web.StreamResponse:
    """Whole or streamed, one word a chunk."""
    body = await request.json()
    said = words(body)
    if body.get("stream"):
        return await _stream(request, body, said)
    message = {"role": "assistant", "content": "".join(said)}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    return web.json_response({**HEAD, "object": "chat.completion", "choices": [choice], "usage": usage(len(said))})


async def _stream(request: web.Request, body: dict[str, Any], said: list[str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    head = {**HEAD, "object": "chat.completion.chunk"}
    for word in said:
        if PACE_S:
            await asyncio.sleep(PACE_S)
        choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
        await response.write(b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n")
    last: dict[str, Any] = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    await response.write(b"data: " + json.dumps(last).encode() + b"\n\n")
    if (body.get("stream_options") or {}).get("include_usage"):
        await response.write(
            b"data: " + json.dumps({**head, "choices": [], "usage": usage(len(said))}).encode() + b"\n\n"
        )
    await response.write(b"data: [DONE]\n\n")
    return response


async def complete(request: web.Request) -> web.Response:
    """A text with log probabilities, as llama-server writes them."""
    said = words(await request.json())
    content = [{"id": 1, "token": word, "logprob": -0.1, "top_logprobs": []} for word in said]
    choice = {"index": 0, "text": "".join(said), "logprobs": {"content": content}, "finish_reason": "length"}
    return web.json_response({**HEAD, "object": "text_completion", "choices": [choice], "usage": usage(len(said))})


async def models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "fake", "object": "model", "owned_by": "nobody"}]})


def main() -> None:
    """Serve until killed."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/completions", complete)
    app.router.add_get("/v1/models", models)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
