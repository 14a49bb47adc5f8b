"""Requests for embeddings: computed one after another on a thread beside the engine's thread."""

import asyncio
from typing import Final, NamedTuple, Protocol

from twd.kit.service import Reply
from twd.wire.embedding import EmbeddingMade, EmbeddingRequested
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobFailed

WAITING_MAX: Final = 256
CLOSING_S: Final = 5.0
"""Seconds that work beside the event loop may take to end when the service closes."""


class Embedding(NamedTuple):
    """The bytes of a vector, and how many tokens were read for it."""

    vector: bytes
    tokens: int


class EmbeddingModel(Protocol):
    """A model that computes embeddings."""

    def embed(self, request: EmbeddingRequested) -> Embedding:
        """Returns one embedding; blocks while it computes."""
        ...


class EmbeddingQueue:
    """The queue in front of a model that computes embeddings."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._closed = False

    async def answer(self, request: EmbeddingRequested, reply: Reply) -> None:
        """Compute the embedding when it is this request's turn, and reply."""
        try:
            made = await self._compute(request)
        except TwdError as error:
            reply(JobFailed(job=request.job, attempt=1, failure=error.failure))
        else:
            reply(EmbeddingMade(job=request.job, vector=made.vector, prompt_tokens=made.tokens))

    async def _compute(self, request: EmbeddingRequested) -> Embedding:
        if self._waiting >= WAITING_MAX:
            raise TwdError(FailureCode.BUSY, f"{self._waiting} inputs wait to become vectors; try again later")
        self._waiting += 1
        try:
            async with self._turn:
                if self._closed:
                    raise TwdError(FailureCode.WORKER_LOST, "the speculator is shutting down")
                return await asyncio.to_thread(self._model.embed, request)
        finally:
            self._waiting -= 1

    async def done(self) -> None:
        """Wait until all requests that wait now are answered."""
        async with self._turn:
            return

    async def close(self) -> bool:
        """Compute nothing more; returns whether the running request ended in time."""
        self._closed = True
        try:
            await asyncio.wait_for(self._turn.acquire(), CLOSING_S)
        except TimeoutError:
            return False
        return True
