"""/v1/embeddings: turns texts into vectors, with one request on the bus for each text."""

import struct
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta

from twd.bus.base import BusError, NoResponders, RequestTimeout
from twd.edge.auth.middleware import principal_of
from twd.edge.core import RequestContext, deadline_ms
from twd.edge.http.base_types import ModelName, RequestBody, ShortText, TokenId, TwdOptions
from twd.edge.http.errors import unasked
from twd.edge.http.generation_handlers import GenerationHandlers
from twd.edge.http.replies import json_reply
from twd.edge.openai.answers import ResponsePart
from twd.edge.openai.completions import prompts_of
from twd.wire.base import Event
from twd.wire.codec import Rejected
from twd.wire.embedding import EmbeddingMade, EmbeddingRequested
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobFailed, Prompt

INPUTS_MAX = 2048

Ask = Callable[[Event, float], Awaitable[Event | Rejected]]


class EmbeddingsRequest(RequestBody, frozen=True, kw_only=True):
    """POST /v1/embeddings."""

    input: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=262_144)]
    model: ModelName = "default"
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    user: ShortText | None = None


class EmbeddingOut(ResponsePart, kw_only=True):
    """One vector: numbers, or the same as 32-bit little-endian floats in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(ResponsePart, kw_only=True):
    """Counted tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(ResponsePart, kw_only=True):
    """The vectors of all inputs, in their order."""

    object: Literal["list"] = "list"
    data: list[EmbeddingOut]
    model: str
    usage: EmbeddingUsage


class EmbeddingHandlers:
    """The embeddings API. Limits are those of the generating APIs; the model's worker computes the vectors."""

    def __init__(self, front: GenerationHandlers, ask: Ask) -> None:
        self._front = front
        self._ask = ask

    def routes(self) -> list[web.RouteDef]:
        """The routes of this handler."""
        return [web.post("/v1/embeddings", self.embed)]

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/embeddings."""
        asked = await self._front.read(request, EmbeddingsRequest)
        terms = self._front.terms(request, asked.model, TwdOptions(mode="speculate"))  # a vector is not judged
        prompts, key = inputs_of(asked), principal_of(request).key
        with self._front.counted(request, 1) as use:
            until = self._front.clock.now() + deadline_ms(terms) / 1000
            made = []
            for prompt in prompts:
                self._front.meter.require_left(key, use.tokens, self._front.clock.wall_ms())
                made.append(await self._made(prompt, asked.dimensions or 0, terms, until))
                use.tokens += made[-1].prompt_tokens
        return json_reply(listed(asked, terms, made))

    async def _made(self, prompt: Prompt, dimensions: int, terms: RequestContext, until: float) -> EmbeddingMade:
        question = EmbeddingRequested(job=terms.new_job(), model=terms.model, prompt=prompt, dimensions=dimensions)
        try:
            answer = await self._ask(question, max(0.0, until - self._front.clock.now()))
        except NoResponders:
            raise self._nobody(terms) from None
        except RequestTimeout:
            late = f"the vectors did not come within {deadline_ms(terms) / 1000:g} s"
            raise TwdError(FailureCode.DEADLINE, late) from None
        except BusError as error:
            failure = unasked(terms.model, error)
            raise TwdError(failure.code, failure.message, "input" if failure.status == 413 else "") from None
        if isinstance(answer, EmbeddingMade):
            return answer
        if isinstance(answer, JobFailed):
            failure = answer.failure
            field = "input" if failure.field == "prompt" else failure.field
            raise TwdError(failure.code, failure.message, field)
        raise TwdError(FailureCode.WORKER_LOST, "the answer to an embedding makes no sense")

    def _nobody(self, terms: RequestContext) -> TwdError:
        models, model = self._front.models, terms.model
        if model in models.live:
            return TwdError(FailureCode.UNSUPPORTED, f"model {model!r} makes no embeddings", "model")
        return TwdError(FailureCode.NOBODY_HOME, models.why_nobody(model), "model")


def inputs_of(asked: EmbeddingsRequest) -> list[Prompt]:
    """The inputs to embed; raises for an empty one, because it has no vector."""
    prompts = prompts_of(asked.input, "input", INPUTS_MAX)
    for index, prompt in enumerate(prompts):
        if not (prompt.text or prompt.tokens):
            field = "input" if isinstance(asked.input, str) else f"input[{index}]"
            raise TwdError(FailureCode.BAD_REQUEST, f"{field} is empty", field)
    return prompts


def listed(asked: EmbeddingsRequest, terms: RequestContext, made: list[EmbeddingMade]) -> EmbeddingList:
    """The answer in the requested encoding."""
    write = _base64 if asked.encoding_format == "base64" else _floats
    tokens = sum(one.prompt_tokens for one in made)
    return EmbeddingList(
        data=[EmbeddingOut(index=index, embedding=write(one.vector)) for index, one in enumerate(made)],
        model=terms.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _base64(vector: bytes) -> str:
    return b64encode(vector).decode()


def _floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))
