"""Takes the next tokens from one long stream of a server, as long as the stream agrees with the text."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from twd.backends.clients.base import Backend, CompletionWish
from twd.backends.verifier.token_texts import END
from twd.kit.tasks import TaskGroup
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import FinishReason

CATCH_UP_MAX: Final = 4
"""A stream that is more than this many tokens behind is replaced by a new one."""


class ContinuousStream:
    """The next tokens of one session without drafts: one request for many tokens, not one request for each."""

    def __init__(self, backend: Backend, wish: CompletionWish, room: int, chunk: int | None) -> None:
        self._backend = backend
        self._wish = wish
        self._room = room
        self._chunk = chunk
        """Tokens of one request. None: as many as the context holds, because a new request would choose differently."""
        self._tasks = TaskGroup("ahead", lambda name, error: self._failed(error))
        self._task: asyncio.Task[None] | None = None
        self._base: list[int] = []
        self._got: list[int] = []
        self._news = asyncio.Event()
        self._ended: FinishReason | None = None
        self._error: BaseException | None = None

    def ready(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that follow these and have arrived already."""
        return self._got[len(tokens) - len(self._base) :] if self._fits(tokens) else []

    async def next(self, tokens: Sequence[int]) -> int:
        """The token that follows these; END if the text ends."""
        while True:
            if not self._fits(tokens) or self._spent(tokens):
                self.stop()
                self._start(tokens)
            place = len(tokens) - len(self._base)
            if place < len(self._got):
                return self._got[place]
            if self._ended is not None:
                return END
            self._news.clear()
            await self._news.wait()
            if self._error is not None and place >= len(self._got):
                raise self._error

    def stop(self) -> None:
        """Close the stream."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _fits(self, tokens: Sequence[int]) -> bool:
        start = len(self._base)
        beyond = len(tokens) - start
        coming = CATCH_UP_MAX if self._ended is None else 0
        if self._task is None or not 0 <= beyond <= len(self._got) + coming:
            return False
        known = min(beyond, len(self._got))
        return list(tokens[start : start + known]) == self._got[:known] and list(tokens[:start]) == self._base

    def _spent(self, tokens: Sequence[int]) -> bool:
        place = len(tokens) - len(self._base)
        at_its_end = place >= len(self._got)
        return at_its_end and (self._error is not None or (place > 0 and self._ended is FinishReason.LENGTH))

    def _start(self, tokens: Sequence[int]) -> None:
        self._base, self._got, self._ended, self._error = list(tokens), [], None, None
        room = self._room - len(tokens)
        if room <= 0:
            raise TwdError(FailureCode.CONTEXT_OVERFLOW, f"the context of {self._room} tokens is full")
        wanted = room if self._chunk is None else min(self._chunk, room)
        self._task = self._tasks.start("read", self._read(wanted))

    async def _read(self, wanted: int) -> None:
        wish = replace(self._wish, max_tokens=wanted)
        silent: list[int] = []
        async with aclosing(self._backend.continue_tokens(self._base, wish)) as pieces:
            async for piece in pieces:
                if piece.text and not piece.tokens:
                    raise self._backend.upstream.broken("tells no ids of the tokens that it streams")
                if piece.text:
                    self._got += silent + piece.tokens
                    silent = []
                else:
                    silent += piece.tokens  # parts of a character, or the token that ends the text
                if piece.end is not None:
                    self._got += [] if piece.end is FinishReason.STOP else silent
                    self._ended = piece.end
                self._news.set()

    def _failed(self, error: BaseException) -> None:
        self._error = error
        self._news.set()
