"""/v1/chat/completions: turns a conversation into jobs."""

import msgspec

from twd.edge.core import RequestContext, grammar_of, jobs_for, limit_of, take_prefill
from twd.edge.http.validation import text_only
from twd.edge.openai.types import (
    AssistantMessage,
    ChatRequest,
    Content,
    Message,
    RefusalPart,
    TextPart,
    ToolMessage,
)
from twd.edge.tool_use import ToolChoice, allowed, check_tools, grammar_for, raw_tools
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import PREDICTION_MAX, ChatMessage, Grammar, JobSubmitted, Prompt, ToolCall


def chat_jobs(request: ChatRequest, terms: RequestContext) -> list[JobSubmitted]:
    """The jobs of a chat request."""
    if request.top_logprobs is not None and not request.logprobs:
        raise TwdError(FailureCode.BAD_REQUEST, "top_logprobs needs logprobs: true", "top_logprobs")
    tools, choice = allowed(request.tools, request.tool_choice)
    check_tools(tools, choice)
    prompt = chat_prompt(request, raw_tools(tools, choice))
    return jobs_for(
        request,
        [prompt],
        terms,
        max_tokens=_limit(request, terms),
        grammar=_grammar(request, prompt, choice, terms),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prediction=_prediction(request),
    )


def _prediction(request: ChatRequest) -> str:
    if request.prediction is None:
        return ""
    text = plain_text(request.prediction.content, "prediction.content")
    if len(text) > PREDICTION_MAX:
        message = f"the prediction has {len(text)} characters; at most {PREDICTION_MAX}"
        raise TwdError(FailureCode.BAD_REQUEST, message, "prediction.content")
    return text


def _grammar(request: ChatRequest, prompt: Prompt, choice: ToolChoice, terms: RequestContext) -> Grammar | None:
    asked = grammar_of(request.grammar, request.response_format)
    parallel = request.parallel_tool_calls is not False
    return grammar_for(prompt.tools, choice, parallel, terms.tool_format, request.response_format, asked)


def _limit(request: ChatRequest, terms: RequestContext) -> int | None:
    newer = limit_of(request.max_completion_tokens, "max_completion_tokens", terms.house)
    older = limit_of(request.max_tokens, "max_tokens", terms.house)
    return older if newer is None else newer


def chat_prompt(request: ChatRequest, tools: list[msgspec.Raw]) -> Prompt:
    """The conversation for the model's chat template; a last assistant message is continued."""
    messages = [wire_message(message, f"messages[{i}]") for i, message in enumerate(request.messages)]
    prefill = take_prefill(messages)
    return Prompt(
        messages=messages,
        tools=tools,
        template_args=template_args(request),
        prefill=prefill,
    )


def template_args(request: ChatRequest) -> dict[str, str | int | float | bool]:
    """The named arguments of the chat template."""
    args = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        args.setdefault("reasoning_effort", request.reasoning_effort)
    return args


def _calls_of(message: AssistantMessage) -> list[ToolCall]:
    return [
        ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in message.tool_calls or ()
    ]


def wire_message(message: Message, path: str) -> ChatMessage:
    """One message, with its content joined into plain text."""
    content, thoughts = plain_text(message.content, f"{path}.content"), ""
    calls: list[ToolCall] = []
    if isinstance(message, AssistantMessage):
        content = content or message.refusal or ""
        thoughts = message.reasoning_content or message.reasoning or ""
        calls = _calls_of(message)
    return ChatMessage(
        role=message.__struct_config__.tag,  # type: ignore[arg-type]
        content=content,
        name=message.name or "",
        tool_calls=calls,
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else "",
        thoughts=thoughts,
    )


def plain_text(content: Content | None, path: str) -> str:
    """Content parts joined into one text with line breaks; raises for parts that are not text."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_part_text(part, f"{path}[{i}]") for i, part in enumerate(content))


def _part_text(part: msgspec.Struct, path: str) -> str:
    match part:
        case TextPart(text=text):
            return text
        case RefusalPart(refusal=refusal):
            return refusal
        case _:
            raise text_only(part, path)
