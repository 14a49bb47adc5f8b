"""llama-server (llama.cpp): token ids in and out, its own tokenizer, chats with the model's own template."""

from collections.abc import Sequence
from typing import Any

import msgspec

from twd.backends.clients.base import Capabilities, CompletionWish, Pieces, TextPiece, counted
from twd.backends.clients.dialect import LLAMACPP, grammar_body, json_of, sampling_body
from twd.backends.clients.openai_chunks import ChunkLogprobs, LogprobEntry, read_logprobs
from twd.backends.clients.openai_compatible import ListedModel, OpenAiClient
from twd.backends.clients.upstream_errors import clean, words_of
from twd.wire.base import Token
from twd.wire.failures import TwdError
from twd.wire.job import FinishReason, GrammarKind, Prompt


class _Settings(msgspec.Struct):
    n_ctx: int = 0


class _Props(msgspec.Struct):
    default_generation_settings: _Settings | None = None
    total_slots: int = 0
    chat_template: str = ""
    build_info: str = ""


class _Health(msgspec.Struct):
    status: str = ""


class _Tokens(msgspec.Struct):
    tokens: list[Token]


class _Text(msgspec.Struct):
    content: str


class _Rendered(msgspec.Struct):
    prompt: str


class _Timings(msgspec.Struct):
    cache_n: int = 0


class _Bit(msgspec.Struct):
    """One event of /completion; the last one has `stop` and the token counts."""

    content: str = ""
    tokens: list[Token] = []
    stop: bool = False
    stop_type: str = ""
    stopping_word: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    timings: _Timings | None = None
    completion_probabilities: list[LogprobEntry] = []
    error: Any = None


class LlamaServerClient(OpenAiClient):
    """Drafts with token ids if the vocabularies are equal; as a target it is relayed."""

    kind = "llamacpp"
    dialect = LLAMACPP

    async def probe(self) -> Capabilities:
        """Check health and properties, and whether its tokenizer answers."""
        await self.upstream.get(f"{self.root}/health", _Health)
        props = await self.upstream.get(f"{self.root}/props", _Props)
        listed = await self.find_model()
        settings = props.default_generation_settings
        return Capabilities(
            kind=self.kind,
            model=self.model,
            chat=bool(props.chat_template),
            tokens=await self._tokenizes(),
            context=settings.n_ctx if settings is not None else 0,
            slots=props.total_slots,
            quantization=listed.meta.ftype if listed.meta else "",
            parameters=listed.meta.n_params if listed.meta else 0,
            size_bytes=listed.meta.size if listed.meta else 0,
            vocabulary=listed.meta.n_vocab if listed.meta else 0,
            template=props.chat_template,
            version=props.build_info,
        )

    def no_such_model(self, models: list[ListedModel]) -> ListedModel:
        """If the list has only one model, return it, because the server serves it under any name; else raise."""
        return models[0] if len(models) == 1 else super().no_such_model(models)

    async def _tokenizes(self) -> bool:
        try:
            return bool(await self.tokenize("one two"))
        except TwdError:
            return False

    def stream(self, wish: CompletionWish) -> Pieces:
        """Chats use the OpenAI endpoint; texts and tokens use the native one."""
        if wish.prompt.messages is not None:
            return super().stream(wish)
        return self._complete(self._body(wish))

    def _body(self, wish: CompletionWish) -> dict[str, Any]:
        body: dict[str, Any] = sampling_body(wish.sampling, LLAMACPP)
        body["prompt"] = wish.prompt.text if wish.prompt.tokens is None else list(wish.prompt.tokens)
        body |= {"stream": True, "return_tokens": True, "cache_prompt": True, "stop": list(wish.stop)}
        body["n_predict"] = -1 if wish.max_tokens is None else wish.max_tokens
        body["ignore_eos"] = wish.ignore_eos
        if wish.logprobs is not None:
            body["n_probs"] = max(1, wish.logprobs)
        if wish.grammar is not None:
            if wish.grammar.kind is GrammarKind.GBNF:
                return body | grammar_body(wish.grammar, LLAMACPP)
            body["json_schema"] = json_of(wish.grammar.text or "{}", "grammar")
        return body

    async def _complete(self, body: dict[str, Any]) -> Pieces:
        async with self.upstream.open("POST", f"{self.root}/completion", body) as answer:
            if answer.content_type != "text/event-stream":
                raise self.upstream.broken(f"answered with {clean(answer.content_type)} where events were expected")
            async for data in answer.events():
                bit = self.upstream.decode(data, _Bit)
                if bit.error:
                    raise self.upstream.broken(f"failed in the middle: {clean(words_of(bit.error))}")
                if bit.content or bit.tokens:
                    logprobs = read_logprobs(ChunkLogprobs(content=bit.completion_probabilities))
                    yield TextPiece(text=bit.content, tokens=bit.tokens, logprobs=logprobs)
                if bit.stop:
                    answer.complete = True
                    yield _end(bit)
                    return
        raise self.upstream.broken("broke off in the middle of its answer")

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """POST /tokenize."""
        body = {"content": text, "add_special": False, "parse_special": special}
        return (await self.upstream.post(f"{self.root}/tokenize", body, _Tokens)).tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """POST /detokenize."""
        return (await self.upstream.post(f"{self.root}/detokenize", {"tokens": list(tokens)}, _Text)).content

    async def render(self, prompt: Prompt) -> list[int]:
        """POST /apply-template, then tokenize. As in the server's own chats, spelled-out control tokens
        become tokens.
        """
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages or ()]
        rendered = await self.upstream.post(f"{self.root}/apply-template", {"messages": messages}, _Rendered)
        return await self.tokenize(rendered.prompt + prompt.prefill, special=True)


def _end(bit: _Bit) -> TextPiece:
    cached = bit.timings.cache_n if bit.timings else 0
    return TextPiece(
        end=FinishReason.LENGTH if bit.stop_type == "limit" else FinishReason.STOP,
        stop=bit.stopping_word,
        usage=counted(bit.tokens_evaluated, bit.tokens_predicted, cached),
    )
