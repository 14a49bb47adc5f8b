"""Any server with OpenAI's API, such as LM Studio or cloud services; also the base class of clients
that can do more.
"""

from contextlib import aclosing
from typing import Any

import msgspec

from twd.backends.clients.base import Backend, Capabilities, CompletionWish, Pieces, TextPiece
from twd.backends.clients.dialect import OPENAI, chat_body, text_body
from twd.backends.clients.openai_chunks import GIVEN_UP, ChunkReader, CompletionChunk
from twd.backends.clients.upstream import BODY_BYTES_MAX, UpstreamResponse, UpstreamServer
from twd.backends.clients.upstream_errors import clean, words_of
from twd.wire.failures import FailureCode, TwdError


class ModelMeta(msgspec.Struct):
    """What llama-server adds to a model in its list."""

    n_vocab: int = 0
    n_params: int = 0
    size: int = 0
    ftype: str = ""


class ListedModel(msgspec.Struct):
    """One entry of /v1/models."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    max_context_length: int | None = None
    meta: ModelMeta | None = None

    @property
    def context(self) -> int:
        """The context size in tokens, if the server reports it."""
        return self.max_model_len or self.context_length or self.max_context_length or 0


class ListedModels(msgspec.Struct):
    """The answer of /v1/models."""

    data: list[ListedModel] = []


class OpenAiClient(Backend):
    """Chats and completions; other features are not assumed."""

    kind = "openai"
    dialect = OPENAI

    def __init__(self, upstream: UpstreamServer, model: str = "", base_path: str = "") -> None:
        super().__init__(upstream, model)
        self.root = base_path
        """The path prefix of endpoints that are not part of OpenAI's API."""
        self.api = base_path if base_path and self.kind == "openai" else f"{base_path}/v1"
        self.context = 0
        self._renamed: dict[str, str] = {}
        self._left_out: set[str] = set()

    async def probe(self) -> Capabilities:
        """List the models and find ours."""
        listed = await self.find_model()
        return Capabilities(kind=self.kind, model=self.model, context=listed.context)

    async def find_model(self) -> ListedModel:
        """Our model in the server's list; the first one if the settings give no name."""
        models = (await self.upstream.get(f"{self.api}/models", ListedModels)).data
        if not self.model and models:
            self.model = models[0].id
        for listed in models:
            if listed.id == self.model:
                self.context = listed.context
                return listed
        if not self.model:
            raise TwdError(FailureCode.BACKEND_DOWN, f"{self.name} has no model loaded; load one, or set model_name")
        return self.no_such_model(models)

    def no_such_model(self, models: list[ListedModel]) -> ListedModel:
        """Called if our model is not in the list: raises, or returns another model in subclasses."""
        names = ", ".join(listed.id for listed in models[:20]) or "none"
        raise self.upstream.broken(f"has no model {self.model!r}; it lists {clean(names)}")

    def stream(self, wish: CompletionWish) -> Pieces:
        """Send a chat or a completion."""
        if wish.prompt.messages is not None:
            return self.continue_text(f"{self.api}/chat/completions", chat_body(self.model, wish, self.dialect))
        return self.continue_text(f"{self.api}/completions", text_body(self.model, wish, self.dialect))

    async def continue_text(self, path: str, body: dict[str, Any]) -> Pieces:
        """Send a request and read its stream. If the server refuses a field, the field is left out or renamed once."""
        while True:
            sent = self._adapted(body)
            try:
                async with self.upstream.open("POST", path, sent) as answer, aclosing(self._read(answer)) as pieces:
                    async for piece in pieces:
                        yield piece
                    return
            except TwdError as error:
                if not self._learn(error, sent):
                    raise

    def _adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        return {self._renamed.get(name, name): value for name, value in body.items() if name not in self._left_out}

    def _learn(self, error: TwdError, sent: dict[str, Any]) -> bool:
        """Whether a refusal names a field that can be left out or renamed; remembers it for the next requests."""
        if error.code is not FailureCode.BAD_REQUEST:
            return False
        said = error.failure.message
        if "max_completion_tokens" in said and "max_tokens" in sent:
            self._renamed["max_tokens"] = "max_completion_tokens"
            return True
        if "stream_options" in said and "stream_options" in sent:
            self._left_out.add("stream_options")
            return True
        return False

    async def _read(self, answer: UpstreamResponse) -> Pieces:
        reader = ChunkReader()
        if answer.content_type == "application/json":  # a whole answer instead of a stream, or an error
            piece = self._piece(reader, await answer.body(BODY_BYTES_MAX))
            if piece is not None:
                yield piece
        elif answer.content_type == "text/event-stream":
            async for data in answer.events():
                if data.strip() == b"[DONE]":
                    answer.complete = True
                    break
                piece = self._piece(reader, data)
                if piece is not None:
                    yield piece
        else:
            raise self.upstream.broken(f"answered with {clean(answer.content_type)} where events were expected")
        if not answer.complete and reader.end is None:
            raise self.upstream.broken("broke off in the middle of its answer")
        yield reader.last()

    def _piece(self, reader: ChunkReader, data: bytes) -> TextPiece | None:
        chunk = self.upstream.decode(data, CompletionChunk)
        if chunk.error:
            raise self.upstream.broken(f"failed in the middle: {clean(words_of(chunk.error))}")
        if any(choice.finish_reason in GIVEN_UP for choice in chunk.choices[:1]):
            raise self.upstream.broken("gave up in the middle of its answer")
        return reader.feed(chunk)
