"""Sends requests to any OpenAI-compatible server, and records when the parts of the answer arrive."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from twd.wire.failures import FailureCode, TwdError

_DATA = b"data:"
_DONE = b"[DONE]"


class Question(msgspec.Struct, frozen=True):
    """One conversation and its kind."""

    name: str
    messages: list[dict[str, str]]


class Reply(msgspec.Struct):
    """One answer as the client received it."""

    question: str
    tokens: int = 0
    arrivals_ms: list[float] = []
    """Arrival of each part of the text, in ms after the request."""
    text_hash: str = ""

    @property
    def first_ms(self) -> float:
        """Milliseconds to the first token."""
        return self.arrivals_ms[0] if self.arrivals_ms else 0.0

    @property
    def decode_ms(self) -> float:
        """Milliseconds from the first part of the text to the last."""
        return self.arrivals_ms[-1] - self.arrivals_ms[0] if self.arrivals_ms else 0.0

    @property
    def gaps_ms(self) -> list[float]:
        """Milliseconds between the parts."""
        return [later - earlier for earlier, later in zip(self.arrivals_ms, self.arrivals_ms[1:], strict=False)]


class Server(msgspec.Struct, frozen=True):
    """The server's address, and the request fields besides the conversation."""

    url: str
    model: str = "default"
    headers: dict[str, str] = {}
    timeout_s: float = 300.0


async def ask(session: aiohttp.ClientSession, server: Server, question: Question, max_tokens: int) -> Reply:
    """Request one streamed greedy answer; raises TwdError if the server refuses or disconnects."""
    body = {
        "model": server.model,
        "messages": question.messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    url, reply, text = f"{server.url}/v1/chat/completions", Reply(question.name), hashlib.sha256()
    limit = aiohttp.ClientTimeout(total=server.timeout_s)
    began = time.perf_counter()
    try:
        async with session.post(url, json=body, headers=server.headers, timeout=limit) as response:
            if response.status != 200:
                raise _broken(f"{url} answered {response.status}: {(await response.text())[:300]}")
            async for event in _events(response.content):
                _note(reply, event, (time.perf_counter() - began) * 1000, text.update)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _broken(f"{url} gave no whole answer: {error or 'too late'}") from error
    reply.text_hash = text.hexdigest()[:16]
    return reply


def _broken(text: str) -> TwdError:
    return TwdError(FailureCode.BACKEND_BROKEN, text)


async def _events(lines: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    async for line in lines:
        data = line.removeprefix(_DATA).strip()
        if line.startswith(_DATA) and data != _DONE:
            yield msgspec.json.decode(data)


def _note(reply: Reply, event: dict[str, Any], at_ms: float, keep: Callable[[bytes], None]) -> None:
    """Add one event of the stream to the reply."""
    if event.get("error"):
        raise _broken(f"the stream failed: {event['error']}")
    for choice in event.get("choices") or ():
        content = (choice.get("delta") or {}).get("content")
        if content:
            reply.arrivals_ms.append(round(at_ms, 2))
            keep(content.encode())
    usage = event.get("usage")
    if usage:
        reply.tokens = int(usage["completion_tokens"])


async def ask_all(
    server: Server, questions: Sequence[Question], max_tokens: int, clients: int = 1
) -> tuple[list[Reply], float]:
    """Every question once, by so many clients at a time; the replies in the order of the questions, and the seconds."""
    replies: dict[int, Reply] = {}
    waiting = iter(enumerate(questions))

    async def client(session: aiohttp.ClientSession) -> None:
        for number, question in waiting:
            replies[number] = await ask(session, server, question, max_tokens)

    connector = aiohttp.TCPConnector(force_close=True)  # servers may close idle connections
    async with aiohttp.ClientSession(connector=connector) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        spent = time.perf_counter() - began
    return [replies[number] for number in sorted(replies)], spent


def with_headers(server: Server, headers: Mapping[str, str]) -> Server:
    """Return the same server with more headers."""
    return msgspec.structs.replace(server, headers={**server.headers, **headers})
