"""/v1/messages: turns Anthropic's conversations into jobs."""

import msgspec

from twd.edge.anthropic.types import (
    AnyChoice,
    AutoChoice,
    CountTokensRequest,
    MessageParam,
    MessagesRequest,
    SystemBlock,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolParam,
    ToolResultBlock,
    ToolUseBlock,
)
from twd.edge.core import RequestContext, grammar_of, jobs_for, take_prefill
from twd.edge.http.validation import text_only
from twd.edge.openai.types import (
    FunctionSpec,
    GenerationRequest,
    NamedTool,
    SchemaFormat,
    SchemaSpec,
    Tool,
    ToolName,
)
from twd.edge.tool_use import check_tools, grammar_for, raw_tools
from twd.wire.job import ChatMessage, JobSubmitted, Prompt, ToolCall


def message_jobs(request: MessagesRequest, terms: RequestContext) -> list[JobSubmitted]:
    """The job of a request."""
    prompt = message_prompt(request)
    parallel, choice = allows_parallel_calls(request), openai_choice(request)
    answer, where = message_format(request)
    wishes = GenerationRequest(
        model=request.model,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=request.stop_sequences,
        stream=request.stream,
    )
    return jobs_for(
        wishes,
        [prompt],
        terms,
        max_tokens=min(request.max_tokens, terms.house.max_tokens_limit),  # required here: clients send the maximum
        at_most=True,
        grammar=grammar_for(prompt.tools, choice, parallel, terms.tool_format, answer, grammar_of(None, answer, where)),
        logprobs=None,
    )


def allows_parallel_calls(request: MessagesRequest) -> bool:
    """Whether the answer may contain several calls."""
    return not getattr(request.tool_choice, "disable_parallel_tool_use", None)


def counting_jobs(request: CountTokensRequest, terms: RequestContext) -> list[JobSubmitted]:
    """A job that is stopped as soon as its prompt is counted."""
    wishes = GenerationRequest(model=request.model)
    return jobs_for(wishes, [message_prompt(request)], terms, max_tokens=1, grammar=None, logprobs=None)


def message_prompt(request: CountTokensRequest) -> Prompt:
    """The conversation; a last assistant message is continued."""
    tools = [openai_tool(tool) for tool in request.tools or ()]
    choice = openai_choice(request)
    check_tools(tools, choice)
    messages = _system(request.system)
    for i, message in enumerate(request.messages):
        messages += _turns(message, f"messages[{i}]")
    prefill = take_prefill(messages)
    return Prompt(
        messages=messages,
        tools=raw_tools(tools, choice),
        template_args=template_args(request),
        prefill=prefill,
    )


def template_args(request: CountTokensRequest) -> dict[str, str | int | float | bool]:
    """The named arguments of the chat template."""
    args: dict[str, str | int | float | bool] = {}
    if request.thinking is not None:
        args["enable_thinking"] = request.thinking.type != "disabled"
    if request.output_config is not None and request.output_config.effort is not None:
        args["reasoning_effort"] = request.output_config.effort
    return args


def message_format(request: MessagesRequest) -> tuple[SchemaFormat | None, str]:
    """The answer's format in the form of chat requests, and the path of its schema."""
    asked, where = request.output_config.format if request.output_config else None, "output_config.format.schema"
    if asked is None:
        asked, where = request.output_format, "output_format.schema"
    shape = SchemaFormat(json_schema=SchemaSpec(name="answer", schema=asked.schema)) if asked else None
    return shape, where


def openai_tool(tool: ToolParam) -> Tool:
    """A tool in OpenAI's form, which chat templates use."""
    spec = FunctionSpec(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
    return Tool(function=spec)


def openai_choice(request: CountTokensRequest) -> str | NamedTool | None:
    """The tool choice in OpenAI's form."""
    match request.tool_choice:
        case None | AutoChoice():
            return "auto" if request.tools else None
        case AnyChoice():
            return "required"
        case ToolChoice(name=name):
            return NamedTool(function=ToolName(name=name))
        case _:
            return "none"


def _system(system: str | list[SystemBlock] | None) -> list[ChatMessage]:
    text = system if isinstance(system, str) else "\n".join(block.text for block in system or ())
    return [ChatMessage(role="system", content=text)] if text else []


def _turns(message: MessageParam, path: str) -> list[ChatMessage]:
    """One message as one or several; tool results become separate messages before the user's text."""
    if isinstance(message.content, str):
        return [ChatMessage(role=message.role, content=message.content)]
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    results: list[ChatMessage] = []
    for i, block in enumerate(message.content):
        match block:
            case TextBlock(text=text):
                texts.append(text)
            case ThinkingBlock(thinking=thought):
                thoughts.append(thought)
            case ToolUseBlock():
                arguments = msgspec.json.encode(block.input).decode()
                calls.append(ToolCall(id=block.id, name=block.name, arguments=arguments))
            case ToolResultBlock():
                results.append(_result(block, f"{path}.content[{i}]"))
            case _:
                _refuse_unless_thinking(block, f"{path}.content[{i}]")
    if not texts and not calls and results:
        return results
    turn = ChatMessage(
        role=message.role, content="\n".join(texts), tool_calls=calls, thoughts="\n".join(filter(None, thoughts))
    )
    return [*results, turn]


def _result(block: ToolResultBlock, path: str) -> ChatMessage:
    texts: list[str] = [block.content] if isinstance(block.content, str) else []
    if isinstance(block.content, list):
        for i, part in enumerate(block.content):
            if not isinstance(part, TextBlock):
                _refuse_unless_thinking(part, f"{path}.content[{i}]")
            else:
                texts.append(part.text)
    text = "\n".join(texts)
    return ChatMessage(
        role="tool", content=f"Error: {text}" if block.is_error else text, tool_call_id=block.tool_use_id
    )


def _refuse_unless_thinking(block: msgspec.Struct, path: str) -> None:
    if "thinking" not in str(block.__struct_config__.tag):
        raise text_only(block, path)
