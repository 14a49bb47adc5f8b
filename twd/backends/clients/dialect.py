"""Turns a CompletionWish into the body of an OpenAI-style request, in each server's dialect. Pure."""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from twd.backends.clients.base import CompletionWish
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, Grammar, GrammarKind, Sampling
from twd.wire.reading import NONSENSE

SEEDS: Final = 2**31
"""Lower than every server's limit: some use 32 bits, and -1 means a random seed."""
_PLAIN: Final = Sampling()
_DRY: Final = ("dry_multiplier", "dry_base", "dry_allowed_length")


@dataclass(frozen=True, slots=True)
class Dialect:
    """The server's field names for features that OpenAI's API lacks; empty: the server lacks the feature."""

    sampling: dict[str, str] = field(default_factory=dict)
    """From our name of a sampling parameter to the server's name."""
    template_args: str = ""
    ignore_eos: bool = False
    gbnf: str = ""
    prefill: dict[str, Any] | None = None
    """Fields that make the server continue a last assistant message; None if it cannot."""
    developer_role: bool = False
    stops_max: int = 64
    no_top_k: int = 0
    """The value of `top_k` that turns it off."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields that every request has."""


LLAMA_SAMPLING: Final = {
    name: name for name in ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", *_DRY)
}
OPENAI: Final = Dialect(developer_role=True, stops_max=4)
LLAMACPP: Final = Dialect(
    sampling=LLAMA_SAMPLING,
    template_args="chat_template_kwargs",
    ignore_eos=True,
    gbnf="grammar",
    prefill={},
    extra={"cache_prompt": True, "reasoning_format": "none"},
)
_GPU_SAMPLING: Final = {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"}
GPU_SERVER: Final = Dialect(
    sampling=_GPU_SAMPLING,
    template_args="chat_template_kwargs",
    ignore_eos=True,
    no_top_k=-1,
    prefill={"continue_final_message": True, "add_generation_prompt": False},
)
"""vLLM and SGLang."""


def unsupported(what: str, field_name: str) -> TwdError:
    """The error for a wish that the server would silently ignore."""
    return TwdError(FailureCode.UNSUPPORTED, f"this backend has no {what}; leave it out", field_name)


def chat_body(model: str, wish: CompletionWish, dialect: Dialect) -> dict[str, Any]:
    """The body of POST /chat/completions."""
    prompt = wish.prompt
    body = common_body(model, wish, dialect)
    body["messages"] = [_message(message, dialect) for message in prompt.messages or ()]
    if prompt.prefill:
        if dialect.prefill is None:
            raise unsupported("way to continue an assistant's message", "messages")
        body["messages"].append({"role": "assistant", "content": prompt.prefill})
        body |= dialect.prefill
    if prompt.tools:
        body["tools"] = prompt.tools
    _add_template_args(body, dict(prompt.template_args), dialect)
    if wish.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": wish.logprobs}
    return body


def text_body(model: str, wish: CompletionWish, dialect: Dialect) -> dict[str, Any]:
    """The body of POST /completions."""
    body = common_body(model, wish, dialect)
    body["prompt"] = wish.prompt.text if wish.prompt.tokens is None else list(wish.prompt.tokens)
    if wish.logprobs is not None:
        body["logprobs"] = wish.logprobs
    return body


def common_body(model: str, wish: CompletionWish, dialect: Dialect) -> dict[str, Any]:
    """The fields that both bodies have."""
    body: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body |= dialect.extra | sampling_body(wish.sampling, dialect)
    if wish.max_tokens is not None:
        body["max_tokens"] = wish.max_tokens
    if wish.stop:
        body["stop"] = list(wish.stop[: dialect.stops_max])  # the relay itself checks all stop strings
    if wish.ignore_eos:
        if not dialect.ignore_eos:
            raise unsupported("way to ignore the end of a text", "ignore_eos")
        body["ignore_eos"] = True
    if wish.grammar is not None:
        body |= grammar_body(wish.grammar, dialect)
    return body


def sampling_body(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """The sampling parameters. One that the server has no name for is refused, unless it changes nothing."""
    body: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.seed is not None:
        body["seed"] = sampling.seed % SEEDS
    for name in ("top_p", "presence_penalty", "frequency_penalty"):
        if dialect.sampling or getattr(sampling, name) != getattr(_PLAIN, name):
            body[name] = getattr(sampling, name)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    body |= special_sampling(sampling, dialect.sampling)
    if "top_k" in dialect.sampling and not sampling.top_k:
        body[dialect.sampling["top_k"]] = dialect.no_top_k
    return body


def special_sampling(sampling: Sampling, names: dict[str, str]) -> dict[str, Any]:
    """Parameters that only some servers know, by the server's names. All are sent, because servers have
    other defaults.
    """
    body: dict[str, Any] = {}
    for name in ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", *_DRY):
        value = getattr(sampling, name)
        if name in names:
            body[names[name]] = value
        elif value != getattr(_PLAIN, name) and _matters(name, sampling):
            raise unsupported(f"parameter {name}", name)
    return body


def _matters(name: str, sampling: Sampling) -> bool:
    if name == "repeat_last_n":
        return sampling.repeat_penalty != 1.0
    if name in ("dry_base", "dry_allowed_length"):
        return sampling.dry_multiplier != 0.0
    if name in ("top_k", "min_p"):
        return sampling.temperature > 0.0
    return True


def grammar_body(grammar: Grammar, dialect: Dialect) -> dict[str, Any]:
    """The fields for the grammar of the answer."""
    if grammar.kind is GrammarKind.GBNF:
        if not dialect.gbnf:
            raise unsupported("GBNF grammars", "grammar")
        return {dialect.gbnf: grammar.text}
    if grammar.kind is GrammarKind.JSON:
        return {"response_format": {"type": "json_object"}}
    schema = {"name": "answer", "schema": json_of(grammar.text, "grammar"), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def json_of(text: str, field_name: str) -> Any:
    """Decode JSON that was sent as text; checked before it is sent on."""
    try:
        return msgspec.json.decode(text)
    except NONSENSE as error:
        raise TwdError(FailureCode.BAD_REQUEST, f"{field_name} holds no JSON: {error}", field_name) from None


def _add_template_args(body: dict[str, Any], args: dict[str, Any], dialect: Dialect) -> None:
    if dialect.template_args:
        if args:
            body[dialect.template_args] = args
        return
    effort = args.pop("reasoning_effort", None)
    if effort is not None:
        body["reasoning_effort"] = effort
    if args:
        raise unsupported("chat template arguments", "chat_template_kwargs")


def _message(message: ChatMessage, dialect: Dialect) -> dict[str, Any]:
    role = "system" if message.role == "developer" and not dialect.developer_role else message.role
    body: dict[str, Any] = {"role": role, "content": message.content}
    if message.name:
        body["name"] = message.name
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    return body
