"""A server's own stream as the next tokens of a text: only as long as it writes that text, and up to its end."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from tests.waiting import until
from twd.backends.clients.base import Backend, CompletionWish, Pieces, TextPiece
from twd.backends.drafter.continuous_stream import ContinuousStream
from twd.backends.verifier.token_texts import END
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import FinishReason, Prompt

ROOM = 100
LENGTH, STOP = TextPiece(end=FinishReason.LENGTH), TextPiece(end=FinishReason.STOP)


def piece(*tokens: int) -> TextPiece:
    return TextPiece(text="x" * len(tokens), tokens=list(tokens))


class Scripted:
    """Each stream brings what it is given, piece by piece."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.coming: list[asyncio.Queue[TextPiece | TwdError]] = []

    async def continue_tokens(self, tokens: Sequence[int], wish: CompletionWish) -> Pieces:
        self.asked.append(list(tokens))
        coming: asyncio.Queue[TextPiece | TwdError] = asyncio.Queue()
        self.coming.append(coming)
        while True:
            got = await coming.get()
            if isinstance(got, TwdError):
                raise got
            yield got
            if got.end is not None:
                return

    async def bring(self, *pieces: TextPiece | TwdError) -> None:
        """By the latest stream, and all of it is taken."""
        for one in pieces:
            self.coming[-1].put_nowait(one)
        await until(self.coming[-1].empty)
        await asyncio.sleep(0)


@pytest.fixture
def server() -> Scripted:
    return Scripted()


@pytest.fixture
def ahead(server: Scripted) -> ContinuousStream:
    return ContinuousStream(cast(Backend, server), CompletionWish(Prompt(tokens=[])), ROOM, 2)


def asking(ahead: ContinuousStream, *tokens: int) -> "asyncio.Future[int]":
    return asyncio.ensure_future(ahead.next(tokens))  # noqa: TID251 - the test's own


async def test_an_end_that_comes_after_the_last_token_of_a_request_is_not_the_texts(
    server: Scripted, ahead: ContinuousStream
) -> None:
    first = asking(ahead, 1)
    await until(lambda: bool(server.coming))
    await server.bring(piece(5), piece(6))
    assert await first == 5
    assert await ahead.next([1, 5]) == 6
    third = asking(ahead, 1, 5, 6)
    await asyncio.sleep(0)
    await server.bring(LENGTH)
    await until(lambda: len(server.asked) == 2)
    await server.bring(piece(7))
    assert await asyncio.wait_for(third, 5) == 7
    assert server.asked == [[1], [1, 5, 6]]


async def test_a_text_ends_where_its_stream_does(server: Scripted, ahead: ContinuousStream) -> None:
    first = asking(ahead, 1)
    await until(lambda: bool(server.coming))
    await server.bring(piece(5), STOP)
    assert await first == 5
    assert await ahead.next([1, 5]) == END


async def test_a_stream_that_catches_up_with_another_text_is_left(server: Scripted, ahead: ContinuousStream) -> None:
    first = asking(ahead, 1)
    await until(lambda: bool(server.coming))
    await server.bring(piece(5))
    assert await first == 5
    next_one = asking(ahead, 1, 5, 6, 7)  # 6 and 7 were guessed, and held
    await asyncio.sleep(0)
    await server.bring(piece(6), piece(9), piece(10))
    await until(lambda: len(server.asked) == 2)
    await server.bring(piece(8))
    assert await asyncio.wait_for(next_one, 5) == 8
    assert server.asked == [[1], [1, 5, 6, 7]]


async def test_the_end_of_another_text_is_not_this_ones(server: Scripted, ahead: ContinuousStream) -> None:
    first = asking(ahead, 1)
    await until(lambda: bool(server.coming))
    await server.bring(piece(5), STOP)
    assert await first == 5
    next_one = asking(ahead, 1, 5, 6)
    await until(lambda: len(server.asked) == 2)
    await server.bring(piece(7))
    assert await asyncio.wait_for(next_one, 5) == 7


async def test_trouble_is_told_to_who_waits(server: Scripted, ahead: ContinuousStream) -> None:
    first = asking(ahead, 1)
    await until(lambda: bool(server.coming))
    await server.bring(TwdError(FailureCode.BACKEND_DOWN, "gone"))
    with pytest.raises(TwdError, match="gone"):
        await first
