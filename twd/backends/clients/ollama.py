"""Ollama through its own API: raw texts, chats, and the facts of its models."""

from typing import Any

import msgspec

from twd.backends.clients.base import Backend, Capabilities, CompletionWish, Pieces
from twd.backends.clients.dialect import LLAMA_SAMPLING, SEEDS, json_of, special_sampling, unsupported
from twd.backends.clients.openai_chunks import (
    ChunkChoice,
    ChunkDelta,
    ChunkReader,
    ChunkToolCall,
    ChunkUsage,
    CompletionChunk,
)
from twd.backends.clients.upstream import UpstreamServer
from twd.backends.clients.upstream_errors import clean
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, Grammar, GrammarKind, Prompt

_SAMPLING = {name: name for name in LLAMA_SAMPLING if not name.startswith("dry_")}


class _Version(msgspec.Struct):
    version: str


class _Tag(msgspec.Struct):
    name: str
    size: int = 0


class _Tags(msgspec.Struct):
    models: list[_Tag]


class _Details(msgspec.Struct):
    family: str = ""
    quantization_level: str = ""


class _Shown(msgspec.Struct):
    details: _Details = msgspec.field(default_factory=_Details)
    model_info: dict[str, Any] = {}
    parameters: str = ""
    template: str = ""
    capabilities: list[str] = []


class _Message(msgspec.Struct):
    content: str = ""
    thinking: str | None = None
    tool_calls: list[ChunkToolCall] | None = None


class _Line(msgspec.Struct):
    """One line of a stream: of /api/generate with `response`, of /api/chat with `message`."""

    response: str = ""
    thinking: str | None = None
    message: _Message | None = None
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int = 0
    eval_count: int = 0
    error: str | None = None


class OllamaClient(Backend):
    """Text only: it neither accepts nor returns token ids."""

    kind = "ollama"

    def __init__(self, upstream: UpstreamServer, model: str = "", base_path: str = "") -> None:
        super().__init__(upstream, model)
        self.root = base_path

    async def probe(self) -> Capabilities:
        """Read its version, its models, and the facts of our model."""
        version = (await self.upstream.get(f"{self.root}/api/version", _Version)).version
        tag = await self._find_model()
        shown = await self.upstream.post(f"{self.root}/api/show", {"model": self.model}, _Shown)
        if shown.capabilities and "completion" not in shown.capabilities:
            raise self.upstream.broken(f"has {self.model!r}, but that makes no texts")
        facts = shown.model_info
        architecture = str(facts.get("general.architecture") or shown.details.family)
        trained = _number(facts.get(f"{architecture}.context_length"))
        context = _parameter(shown.parameters, "num_ctx")
        return Capabilities(
            kind=self.kind,
            model=self.model,
            chat=bool(shown.template),
            context=min(context, trained) if context and trained else context,
            architecture=architecture,
            quantization=shown.details.quantization_level,
            parameters=_number(facts.get("general.parameter_count")),
            size_bytes=tag.size,
            vocabulary=_number(facts.get(f"{architecture}.vocab_size")),
            template=shown.template,
            version=version,
            note="" if context else "its context is what OLLAMA_CONTEXT_LENGTH or num_ctx says there",
        )

    async def _find_model(self) -> _Tag:
        tags = (await self.upstream.get(f"{self.root}/api/tags", _Tags)).models
        if not self.model and tags:
            self.model = tags[0].name
        for tag in tags:
            if tag.name in (self.model, f"{self.model}:latest"):
                return tag
        names = ", ".join(tag.name for tag in tags[:20]) or "none"
        if not self.model:
            raise TwdError(FailureCode.BACKEND_DOWN, f"{self.name} has no model; run `ollama pull` there")
        raise self.upstream.broken(f"has no model {self.model!r}; it lists {clean(names)}")

    def stream(self, wish: CompletionWish) -> Pieces:
        """Chat with the model's template, or continue a raw text."""
        body: dict[str, Any] = {"model": self.model, "stream": True, "options": _options(wish)}
        body |= {"truncate": False, "shift": False}  # an error is better than a prompt that is cut silently
        if wish.logprobs is not None:
            raise unsupported("log probabilities", "logprobs")
        if wish.grammar is not None:
            body["format"] = _format(wish.grammar)
        if wish.prompt.messages is not None:
            return self._read("/api/chat", body | _chat(wish.prompt))
        if wish.prompt.text is None:
            raise self.cannot("take token ids", "prompt")
        return self._read("/api/generate", body | {"prompt": wish.prompt.text, "raw": True})

    async def _read(self, path: str, body: dict[str, Any]) -> Pieces:
        reader = ChunkReader()
        async with self.upstream.open("POST", f"{self.root}{path}", body) as answer:
            if answer.content_type not in ("application/x-ndjson", "application/json"):
                raise self.upstream.broken(f"answered with {clean(answer.content_type)} where JSON lines were expected")
            async for data in answer.lines():
                line = self.upstream.decode(data, _Line)
                if line.error:
                    raise self.upstream.broken(f"failed in the middle: {clean(line.error)}")
                piece = reader.feed(_chunk(line))
                if piece is not None:
                    yield piece
                if line.done:
                    answer.complete = True
                    yield reader.last()
                    return
        raise self.upstream.broken("broke off in the middle of its answer")


def _chunk(line: _Line) -> CompletionChunk:
    """A line converted to the form of OpenAI's servers."""
    message = line.message or _Message(content=line.response, thinking=line.thinking)
    delta = ChunkDelta(content=message.content, reasoning_content=message.thinking, tool_calls=message.tool_calls)
    reason = (line.done_reason or "stop") if line.done else None
    counts = ChunkUsage(prompt_tokens=line.prompt_eval_count, completion_tokens=line.eval_count) if line.done else None
    return CompletionChunk(choices=[ChunkChoice(delta=delta, finish_reason=reason)], usage=counts)


def _options(wish: CompletionWish) -> dict[str, Any]:
    sampling = wish.sampling
    if wish.ignore_eos:
        raise unsupported("way to ignore the end of a text", "ignore_eos")
    if sampling.logit_bias:
        raise unsupported("logit_bias", "logit_bias")
    options: dict[str, Any] = special_sampling(sampling, _SAMPLING)
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        options[name] = getattr(sampling, name)
    if sampling.seed is not None:
        options["seed"] = sampling.seed % SEEDS
    options["num_predict"] = -1 if wish.max_tokens is None else wish.max_tokens
    if wish.stop:
        options["stop"] = list(wish.stop)
    return options


def _format(grammar: Grammar) -> Any:
    if grammar.kind is GrammarKind.GBNF:
        raise unsupported("GBNF grammars", "grammar")
    return "json" if grammar.kind is GrammarKind.JSON else json_of(grammar.text, "grammar")


def _chat(prompt: Prompt) -> dict[str, Any]:
    messages = [_message(message) for message in prompt.messages or ()]
    if prompt.prefill:
        messages.append({"role": "assistant", "content": prompt.prefill})
    body: dict[str, Any] = {"messages": messages}
    if prompt.tools:
        body["tools"] = prompt.tools
    args = dict(prompt.template_args)
    think = args.pop("reasoning_effort", args.pop("enable_thinking", None))
    if args:
        raise unsupported("chat template arguments", "chat_template_kwargs")
    return body if think is None else body | {"think": think}


def _message(message: ChatMessage) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    body: dict[str, Any] = {"role": role, "content": message.content}
    if message.name:
        body["tool_name" if role == "tool" else "name"] = message.name
    if message.tool_calls:
        body["tool_calls"] = [
            {"function": {"name": call.name, "arguments": json_of(call.arguments or "{}", "messages")}}
            for call in message.tool_calls
        ]
    return body


def _parameter(parameters: str, name: str) -> int:
    """A number from the parameter lines of a Modelfile."""
    for line in parameters.splitlines():
        key, _, value = line.strip().partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return 0


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
