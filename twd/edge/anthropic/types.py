"""What Anthropic's clients send to /v1/messages, and what they read."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from twd.edge.http.base_types import Effort, JsonObject, ModelName, RequestBody, ShortText, StopString, TwdOptions, Unit
from twd.edge.openai.answers import ResponsePart, TwdFacts

CacheControl = JsonObject | None
"""A hint; twd's prefix cache needs none."""
FunctionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
"""Twice as long as OpenAI's: MCP's names have their server's in front."""

# -- requests ----------------------------------------------------------------------------------


class TextBlock(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """Text."""

    text: str
    cache_control: CacheControl = None
    citations: list[JsonObject] | None = None


class SystemBlock(RequestBody, frozen=True, kw_only=True):
    """A part of the instructions."""

    text: str
    type: Literal["text"] = "text"
    cache_control: CacheControl = None
    citations: list[JsonObject] | None = None


class ImageBlock(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """Refused: twd reads text only."""

    source: JsonObject | None = None
    cache_control: CacheControl = None


class DocumentBlock(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="document"):
    """Refused: twd reads text only."""

    source: JsonObject | None = None
    title: str | None = None
    context: str | None = None
    citations: JsonObject | None = None
    cache_control: CacheControl = None


class ToolUseBlock(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """A call that the model made earlier."""

    id: ShortText
    name: ShortText
    input: JsonObject
    cache_control: CacheControl = None


class ToolResultBlock(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="tool_result"):
    """What a tool answered."""

    tool_use_id: ShortText
    content: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl = None


class ThinkingBlock(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """What the model thought earlier; its template decides whether it sees that again."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="redacted_thinking"):
    """The same, sealed."""

    data: str


Block = TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock


class MessageParam(RequestBody, frozen=True, kw_only=True):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolParam(RequestBody, frozen=True, kw_only=True):
    """A tool of the client's."""

    name: FunctionName
    input_schema: JsonObject
    description: str | None = None
    type: Literal["custom"] | None = None
    cache_control: CacheControl = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    """Both change nothing: arguments are streamed as they come, and a tool is offered at once."""


class AutoChoice(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="any"):
    """Some tool must be called."""

    disable_parallel_tool_use: bool | None = None


class ToolChoice(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="tool"):
    """This tool must be called."""

    name: FunctionName
    disable_parallel_tool_use: bool | None = None


class NoChoice(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="none"):
    """No tool may be called."""


class ThinkingOption(RequestBody, frozen=True, kw_only=True):
    """Whether the model's template may open a thinking part."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: str | None = None


class JsonOutput(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    schema: JsonObject


class OutputConfig(RequestBody, frozen=True, kw_only=True):
    """The shape of the answer, and how much to think, where the model's template knows about it."""

    effort: Effort | None = None
    format: JsonOutput | None = None


class CountTokensRequest(RequestBody, frozen=True, kw_only=True):
    """POST /v1/messages/count_tokens."""

    messages: Annotated[list[MessageParam], Meta(min_length=1, max_length=8192)]
    model: ModelName = "default"
    system: str | list[SystemBlock] | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=128)] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: ThinkingOption | None = None
    output_config: OutputConfig | None = None
    output_format: JsonOutput | None = None
    """What `output_config.format` was called before."""
    cache_control: CacheControl = None
    context_management: JsonObject | None = None
    mcp_servers: None = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)]
    stop_sequences: Annotated[list[StopString], Meta(max_length=16)] | None = None
    stream: bool | None = None
    temperature: Unit | None = None
    top_p: Unit | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    metadata: JsonObject | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: None = None
    twd: TwdOptions | None = None


# -- answers -----------------------------------------------------------------------------------


class MessageUsage(ResponsePart, kw_only=True):
    """Counted tokens; what came from the cache is not in `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class BlockOut(ResponsePart, kw_only=True):
    """A block of an answer."""

    type: Literal["text", "tool_use", "thinking"]
    text: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    input: JsonObject | UnsetType = UNSET


class MessageOut(ResponsePart, kw_only=True):
    """A whole answer, or the head of a streamed one."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[BlockOut]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessageUsage
    twd: TwdFacts | UnsetType = UNSET


class TokenCount(ResponsePart, kw_only=True):
    """The answer of count_tokens."""

    input_tokens: int


class AnthropicError(ResponsePart, kw_only=True):
    """What went wrong."""

    type: str
    message: str


class AnthropicEnvelope(ResponsePart, kw_only=True):
    """Anthropic's shape of an error."""

    type: Literal["error"] = "error"
    error: AnthropicError
    advice: str = ""


class StreamEvent(ResponsePart, kw_only=True):
    """One event of a stream; the fields depend on its type."""

    type: str
    message: MessageOut | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: BlockOut | UnsetType = UNSET
    delta: dict[str, Any] | UnsetType = UNSET
    usage: MessageUsage | UnsetType = UNSET
    twd: TwdFacts | UnsetType = UNSET
