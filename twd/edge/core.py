"""From a request to jobs: the decisions that all APIs share. No I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from twd.chat.tool_calls.formats import ToolFormat
from twd.edge.http.base_types import TwdOptions
from twd.edge.http.validation import is_number, read_value
from twd.edge.openai.types import GenerationRequest, JsonFormat, ResponseFormat, SchemaFormat
from twd.wire.base import InstanceId, JobId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, Grammar, GrammarKind, JobSubmitted, Prompt, Sampling, Speculation

SEEDS = 2**53
NO_MODEL = ModelId("")
MAX_CHOICES = 128
CHOICES_BYTES_MAX = 8 * 1024 * 1024
"""Bytes. The prompt is sent once for each choice; more than this at once would overload the reader."""
GRAMMAR_MAX = 262_144
DEFAULT_TEMPERATURE = 1.0
MODES = {"speculate", "direct", "gate", "consensus"}
EXACT_MODES = {"speculate", "direct"}


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of this server, and its defaults for requests."""

    max_tokens_limit: int
    deadline_s: float
    mode: str = "speculate"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What the server gives one request: ids, a seed, limits, and the options of its headers."""

    model: ModelId
    owner: InstanceId
    house: ServerLimits
    options: TwdOptions
    fresh_seed: int
    new_job: Callable[[], JobId]
    created_ms: int
    """When the request came; chat templates that print the date use it."""
    exact: bool | None = None
    """Whether the model is known to be exact; None if it was not measured."""
    tool_format: ToolFormat = ToolFormat.BARE
    """The format in which the model writes tool calls."""
    base: ModelId = NO_MODEL
    """The model itself, if `model` also names a mode."""
    chosen: str = ""
    """The mode that the model's name or the routes in the settings give."""

    @property
    def mode(self) -> str:
        """The mode in which this request is served."""
        options = self.options
        if options.mode is None and options.speculation == "off" and self.chosen in ("", *EXACT_MODES):
            return "direct"
        return self.chosen or options.mode or (self.house.mode if self.house.mode in MODES else "speculate")


def header_options(headers: Mapping[str, str]) -> TwdOptions:
    """Read `x-twd-speculation`, `x-twd-mode`, `x-twd-exact` and `x-twd-deadline-s`."""
    given: dict[str, Any] = {}
    for name in TwdOptions.__struct_fields__:
        header = f"x-twd-{name.replace('_', '-')}"
        value = headers.get(header)
        if value is not None:
            given[name] = _header_value(header, name, value.strip())
    return TwdOptions(**given)


def _header_value(header: str, name: str, value: str) -> Any:
    plain: Any = int(value) if name == "speculation" and is_number(value) else value
    return getattr(read_value(TwdOptions, {name: plain}, header), name)


def merge_options(body: TwdOptions | None, headers: TwdOptions) -> TwdOptions:
    """The options of both; the body's win over the headers'."""
    if body is None:
        return headers
    named = {f: getattr(body, f) for f in body.__struct_fields__ if getattr(body, f) is not None}
    return msgspec.structs.replace(headers, **named)


def check_options(terms: RequestContext) -> None:
    """Raise if an option cannot be fulfilled here."""
    if terms.mode not in MODES:
        raise TwdError(FailureCode.UNSUPPORTED, f"mode {terms.mode!r} has no service here yet", "twd.mode")
    if terms.options.exact and terms.mode not in EXACT_MODES:
        text = f"mode {terms.mode!r} may change the text; leave out twd.exact, or ask for the model without it"
        raise TwdError(FailureCode.UNSUPPORTED, text, "twd.exact")
    if terms.options.exact and not terms.exact:
        state = "was not measured to be exact yet" if terms.exact is None else "is not exact on these settings"
        raise TwdError(FailureCode.UNSUPPORTED, f"model {terms.model!r} {state}", "twd.exact")


def speculation_of(terms: RequestContext, prediction: str = "") -> Speculation:
    """The speculation options of a job: how far to guess ahead, and the text that the client expects."""
    wish = terms.options.speculation
    if terms.mode == "direct" or wish in ("off", 0):
        return Speculation(enabled=False)
    consensus = terms.mode == "consensus"
    return Speculation(window=wish if isinstance(wish, int) else 0, prediction=prediction, consensus=consensus)


def model_for(
    terms: RequestContext, prompt: Prompt, grammar: Grammar | None, logprobs: int | None, prediction: str
) -> ModelId:
    """The model name to submit a job to: that of a gate, unless the answer must be exact or the client predicts it; the
    model checks a prediction at less cost than a member's answer.
    """
    exact = bool(prompt.tools) or grammar is not None or logprobs is not None or prediction != ""
    return terms.model if terms.mode == "gate" and not exact else terms.base or terms.model


def sampling_of(request: GenerationRequest, seed: int) -> Sampling:
    """The sampling parameters, with OpenAI's defaults."""
    given = {
        name: value
        for name in ("top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "repeat_last_n")
        if (value := getattr(request, name)) is not None
    }
    return Sampling(
        temperature=DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=request.logit_bias or {},
        seed=seed,
        **given,
    )


def seed_for(asked: int | None, fresh: int, choice: int) -> int:
    """The seed of a choice. Each choice has its own; the first one has the requested seed."""
    return ((fresh if asked is None else asked) + choice) % SEEDS


def limit_of(asked: int | None, field: str, house: ServerLimits) -> int | None:
    """The maximum number of tokens, at most the server's limit."""
    if asked is not None and asked > house.max_tokens_limit:
        text = f"{field} is {asked}; at most {house.max_tokens_limit} are allowed (edge.max_tokens_limit)"
        raise TwdError(FailureCode.BAD_REQUEST, text, field)
    return asked


def take_prefill(messages: list[ChatMessage]) -> str:
    """Remove a last assistant message, which the model continues; raises if no other message is left."""
    last = messages[-1]
    prefill = messages.pop().content if last.role == "assistant" and not last.tool_calls else ""
    if not messages:
        raise TwdError(FailureCode.BAD_REQUEST, "there is nothing to answer: add a user message", "messages")
    return prefill


def stops_of(stop: str | list[str] | None) -> list[str]:
    """The stop strings as a list without duplicates."""
    if stop is None:
        return []
    return list(dict.fromkeys([stop] if isinstance(stop, str) else stop))


def grammar_of(
    gbnf: str | None, answer: ResponseFormat | None, schema_field: str = "response_format.json_schema.schema"
) -> Grammar | None:
    """The grammar for the answer; an error in a schema names the field of the request."""
    wanted = format_grammar(answer, schema_field)
    if gbnf is None:
        return wanted
    if wanted is not None:
        raise TwdError(FailureCode.BAD_REQUEST, "grammar and response_format exclude each other", "grammar")
    return Grammar(kind=GrammarKind.GBNF, text=gbnf)


def format_grammar(answer: ResponseFormat | None, schema_field: str) -> Grammar | None:
    """The grammar of a response_format."""
    match answer:
        case JsonFormat():
            return Grammar(kind=GrammarKind.JSON)
        case SchemaFormat():
            return schema_grammar(answer.json_schema.schema, schema_field)
        case _:
            return None


def schema_grammar(schema: dict[str, Any], field: str) -> Grammar:
    """The grammar of a JSON schema."""
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=msgspec.json.encode(schema).decode(), field=field)


def jobs_for(
    request: GenerationRequest,
    prompts: list[Prompt],
    terms: RequestContext,
    *,
    max_tokens: int | None,
    at_most: bool = False,
    grammar: Grammar | None,
    logprobs: int | None,
    prediction: str = "",
) -> list[JobSubmitted]:
    """One job for each choice of each prompt."""
    check_options(terms)
    n = request.n or 1
    _check_grammar(grammar)
    _check_choices(n, prompts, prediction)
    return [
        JobSubmitted(
            job=terms.new_job(),
            model=model_for(terms, prompt, grammar, logprobs, prediction),
            owner=terms.owner,
            prompt=prompt,
            sampling=sampling_of(request, seed_for(request.seed, terms.fresh_seed, choice)),
            grammar=grammar,
            max_tokens=max_tokens,
            at_most=at_most,
            stop=stops_of(request.stop),
            logprobs=logprobs,
            ignore_eos=bool(request.ignore_eos),
            whole=not request.stream,
            speculation=_speculation_for(prompt, grammar, logprobs, speculation_of(terms, prediction)),
            deadline_ms=deadline_ms(terms),
            created_ms=terms.created_ms,
        )
        for prompt in prompts
        for choice in range(n)
    ]


def _check_grammar(grammar: Grammar | None) -> None:
    if grammar is not None and len(grammar.text) > GRAMMAR_MAX:
        text = f"what the answer must follow has {len(grammar.text)} characters; at most {GRAMMAR_MAX}"
        raise TwdError(FailureCode.BAD_REQUEST, text, grammar.field)


def _check_choices(n: int, prompts: list[Prompt], prediction: str) -> None:
    """Refuse more choices than one request may ask for, and more than fit into memory."""
    if n * len(prompts) > MAX_CHOICES:
        raise TwdError(FailureCode.BAD_REQUEST, f"{len(prompts)} prompts x n={n} exceed {MAX_CHOICES} choices", "n")
    if n > 1 and n * (len(prediction) + sum(map(_size_of, prompts))) > CHOICES_BYTES_MAX:
        text = f"n={n} choices of so long a prompt exceed {CHOICES_BYTES_MAX} bytes; ask for fewer at once"
        raise TwdError(FailureCode.BAD_REQUEST, text, "n")


def _speculation_for(prompt: Prompt, grammar: Grammar | None, logprobs: int | None, wanted: Speculation) -> Speculation:
    """The speculation options of a choice; drafters never vote on answers that must be exact."""
    exact = bool(prompt.tools) or grammar is not None or logprobs is not None
    return msgspec.structs.replace(wanted, consensus=wanted.consensus and not exact)


def _size_of(prompt: Prompt) -> int:
    return len(msgspec.json.encode(prompt))


def deadline_ms(terms: RequestContext) -> int:
    """The shorter one of the client's and the server's deadline, in milliseconds."""
    asked = terms.options.deadline_s
    return max(1, int(1000 * (terms.house.deadline_s if asked is None else min(asked, terms.house.deadline_s))))
