"""/v1/responses: turns input items into jobs."""

from typing import Any, TypeVar

import msgspec

from twd.edge.core import RequestContext, grammar_of, jobs_for, limit_of
from twd.edge.http.validation import explain, text_only
from twd.edge.openai.types import (
    AllowedTools,
    FunctionSpec,
    GenerationRequest,
    JsonFormat,
    NamedTool,
    ResponseFormat,
    SchemaFormat,
    SchemaSpec,
    TextFormat,
    Tool,
    ToolName,
    ToolSubset,
)
from twd.edge.responses.types import (
    AllowedFunctions,
    FunctionCallItem,
    FunctionOutputItem,
    FunctionTool,
    InputText,
    MessageItem,
    NamedFunction,
    NamedSchema,
    OutputText,
    Part,
    ReasoningItem,
    RefusalText,
    ResponsesRequest,
)
from twd.edge.tool_use import ToolChoice, allowed, check_tools, grammar_for, raw_tools
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, JobSubmitted, Prompt, ToolCall

B = TypeVar("B", bound=msgspec.Struct)


def response_jobs(request: ResponsesRequest, terms: RequestContext) -> list[JobSubmitted]:
    """The job of a request."""
    if "message.output_text.logprobs" in (request.include or ()):
        raise TwdError(
            FailureCode.UNSUPPORTED,
            "log probabilities are given by /v1/chat/completions and /v1/completions",
            "include",
        )
    prompt = response_prompt(request)
    answer = response_format(request)
    asked = grammar_of(None, answer, "text.format.schema")
    parallel = request.parallel_tool_calls is not False
    wishes = GenerationRequest(
        model=request.model, temperature=request.temperature, top_p=request.top_p, stream=request.stream
    )
    return jobs_for(
        wishes,
        [prompt],
        terms,
        max_tokens=limit_of(request.max_output_tokens, "max_output_tokens", terms.house),
        grammar=grammar_for(prompt.tools, tool_use(request)[1], parallel, terms.tool_format, answer, asked),
        logprobs=None,
    )


def response_prompt(request: ResponsesRequest) -> Prompt:
    """The conversation; an empty input becomes an empty user message, because some clients send one as a probe."""
    tools, choice = tool_use(request)
    check_tools(tools, choice)
    messages = [ChatMessage(role="system", content=request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        messages.append(ChatMessage(role="user", content=request.input))
    else:
        messages += _joined(request.input)
    if not any(message.role != "system" for message in messages):
        messages.append(ChatMessage(role="user"))
    effort = request.reasoning.effort if request.reasoning else None
    return Prompt(
        messages=messages,
        tools=raw_tools(tools, choice),
        template_args={"reasoning_effort": effort} if effort else {},
        truncate=request.truncation == "auto",
    )


def _joined(items: list[dict[str, Any]]) -> list[ChatMessage]:
    """The items as messages; calls in a row are joined into one assistant message, because chat templates need that."""
    messages: list[ChatMessage] = []
    thoughts = ""
    for index, item in enumerate(items):
        if item.get("type") == "reasoning":
            thoughts = _thoughts(_read(ReasoningItem, item, f"input[{index}]"))
            continue
        turn = _turn(item, f"input[{index}]")
        if turn.role == "assistant":
            turn = msgspec.structs.replace(turn, thoughts=thoughts)
        last, thoughts = messages[-1] if messages else None, ""
        if turn.tool_calls and last is not None and last.role == "assistant":
            calls = [*last.tool_calls, *turn.tool_calls]
            messages[-1] = msgspec.structs.replace(last, tool_calls=calls, thoughts=last.thoughts or turn.thoughts)
        else:
            messages.append(turn)
    return messages


def _thoughts(item: ReasoningItem) -> str:
    """The text of a reasoning item's own words; summaries and encrypted content are ignored."""
    return "\n".join(part.text for part in item.content or ())


def _turn(item: dict[str, Any], path: str) -> ChatMessage:
    kind = item.get("type", "message")
    if kind == "message":
        message = _read(MessageItem, item, path)
        return ChatMessage(role=message.role, content=_text(message.content, f"{path}.content"))
    if kind == "function_call":
        call = _read(FunctionCallItem, item, path)
        return ChatMessage(
            role="assistant", tool_calls=[ToolCall(id=call.call_id, name=call.name, arguments=call.arguments)]
        )
    if kind == "function_call_output":
        output = _read(FunctionOutputItem, item, path)
        return ChatMessage(role="tool", content=_text(output.output, f"{path}.output"), tool_call_id=output.call_id)
    raise TwdError(FailureCode.UNSUPPORTED, f"{path}: items of type {str(kind)[:60]!r} are not read", f"{path}.type")


def _read(model: type[B], value: dict[str, Any], path: str) -> B:
    try:
        return msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        raise explain(str(error), model, path) from None


def _text(content: str | list[Part], path: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_part(part, f"{path}[{i}]") for i, part in enumerate(content))


def _part(part: Part, path: str) -> str:
    match part:
        case InputText(text=text) | OutputText(text=text) | RefusalText(refusal=text):
            return text
        case _:
            raise text_only(part, path)


def function_tools(request: ResponsesRequest) -> list[Tool]:
    """The functions among the tools; tools that only their vendors can run are ignored."""
    found: list[Tool] = []
    for index, tool in enumerate(request.tools or ()):
        if tool.get("type", "function") == "function":
            spec = _read(FunctionTool, tool, f"tools[{index}]")
            function = FunctionSpec(
                name=spec.name, description=spec.description, parameters=spec.parameters, strict=spec.strict
            )
            found.append(Tool(function=function))
    return found


def tool_use(request: ResponsesRequest) -> tuple[list[Tool] | None, ToolChoice]:
    """The tools that may be called, and the choice among them, in the form of chat requests."""
    return allowed(function_tools(request), _openai_choice(request))


def _openai_choice(request: ResponsesRequest) -> ToolChoice | AllowedTools:
    match request.tool_choice:
        case NamedFunction(name=name):
            return _named(name)
        case AllowedFunctions(mode=mode, tools=tools):
            return AllowedTools(allowed_tools=ToolSubset(mode=mode, tools=[_named(tool.name) for tool in tools]))
        case choice:
            return choice


def _named(name: str) -> NamedTool:
    return NamedTool(function=ToolName(name=name))


def response_format(request: ResponsesRequest) -> ResponseFormat | None:
    """The answer's format in the form of chat requests."""
    match request.text.format if request.text else None:
        case NamedSchema() as named:
            return SchemaFormat(json_schema=SchemaSpec(name=named.name, schema=named.schema))
        case TextFormat() | JsonFormat() as plain:
            return plain
        case _:
            return None
