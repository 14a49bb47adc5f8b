"""News that are taken where they arrive, and the reader who sleeps meanwhile."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.edge.conftest import House
from tests.edge.test_life import TEXT, content
from twd.edge.answering import News
from twd.edge.inflight_requests import InFlightRequest
from twd.wire.base import JobId, SessionId
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import TokensAccepted

PIECE = TokensAccepted(job=JobId("j"), attempt=1, session=SessionId("s"), at=0, index=0, tokens=[1], text="x")
END = Failure(code=FailureCode.OUT_OF_MEMORY, message="no memory left")


def call_that(takes: Callable[[InFlightRequest], bool]) -> InFlightRequest:
    call = InFlightRequest()
    call.at_once = lambda: takes(call)
    return call


def take(call: InFlightRequest) -> bool:
    call.news.clear()
    return True


async def test_a_reader_sleeps_while_news_are_taken_at_once_and_wakes_for_the_end() -> None:
    call = call_that(take)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(call.wait(30.0))
        await asyncio.sleep(0)
        call.put(0, PIECE)
        await asyncio.sleep(0)
        assert not call.news
        assert not waiting.done()
        call.put(0, END)
    assert waiting.result()
    assert list(call.news) == [(0, END)]


@pytest.mark.parametrize("piece", [PIECE, END])
async def test_a_reader_who_does_not_wait_finds_all_news_later(piece: News | Failure) -> None:
    call = call_that(take)
    call.put(0, piece)
    assert await call.wait(30.0)
    assert list(call.news) == [(0, piece)]


async def test_what_cannot_be_taken_at_once_wakes_the_reader() -> None:
    call = call_that(lambda call: False)
    asyncio.get_running_loop().call_soon(call.put, 0, PIECE)
    assert await call.wait(30.0)
    assert list(call.news) == [(0, PIECE)]


async def test_a_fault_while_taking_is_the_readers() -> None:
    def breaks(call: InFlightRequest) -> bool:
        raise ValueError("planted")

    call = call_that(breaks)
    asyncio.get_running_loop().call_soon(call.put, 0, PIECE)
    with pytest.raises(ValueError, match="planted"):
        await call.wait(30.0)


@pytest.mark.parametrize("sent", [True, False])
async def test_the_time_to_wait_begins_anew_with_what_is_sent_at_once(sent: bool) -> None:
    def send(call: InFlightRequest) -> bool:
        if sent:
            call.begin_anew()
        return take(call)

    call, loop = call_that(send), asyncio.get_running_loop()
    first = loop.time()
    loop.call_later(0.1, call.put, 0, PIECE)
    assert not await call.wait(0.2)
    assert (loop.time() - first > 0.25) is sent


async def test_a_client_of_http_1_0_gets_the_text_without_chunk_sizes(house: House) -> None:
    place = urlsplit(house.edge.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    body = b'{"messages": [{"role": "user", "content": "hi"}], "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    async with asyncio.timeout(5):
        raw = await reader.read()
    writer.close()
    stream = raw.partition(b"\r\n\r\n")[2]
    assert content(stream) == TEXT
    assert all(line == b"" or line.startswith(b"data: ") for line in stream.split(b"\n"))
