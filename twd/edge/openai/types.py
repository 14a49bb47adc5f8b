"""What OpenAI's clients send: the models that validate requests and describe them in /openapi.json.

A field that is typed `None` is known but not supported: only null passes.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from twd.edge.http.base_types import (
    Bias,
    Choices,
    Count,
    Effort,
    FunctionName,
    JsonObject,
    ModelName,
    Penalty,
    RequestBody,
    Seed,
    ShortText,
    StopList,
    StopString,
    Temperature,
    TokenId,
    TokenLimit,
    TwdOptions,
    Unit,
)


class TextPart(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """Text in a list of content parts."""

    text: str
    prompt_cache_breakpoint: JsonObject | None = None


class ImagePart(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="image_url"):
    """Refused: twd reads text only."""

    image_url: JsonObject | str | None = None


class AudioPart(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="input_audio"):
    """Refused: twd reads text only."""

    input_audio: JsonObject | None = None


class FilePart(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """Refused: twd reads text only."""

    file: JsonObject | None = None


class RefusalPart(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    """What the assistant declined earlier; read as its text."""

    refusal: str


Content = str | list[TextPart | ImagePart | AudioPart | FilePart | RefusalPart]


class PredictedContent(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="content"):
    """What the client expects as the answer, or most of it: where it is right, the answer comes sooner."""

    content: Content


class FunctionCall(RequestBody, frozen=True, kw_only=True):
    """The function of an earlier tool call."""

    name: ShortText
    arguments: str = ""
    parsed_arguments: Any = None


class ToolCallPart(RequestBody, frozen=True, kw_only=True):
    """A tool call that the assistant made earlier."""

    id: ShortText
    function: FunctionCall
    type: Literal["function"] = "function"
    index: Count | None = None


class SystemMessage(RequestBody, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """Instructions."""

    content: Content
    name: ShortText | None = None


class DeveloperMessage(RequestBody, frozen=True, kw_only=True, tag_field="role", tag="developer"):
    """Instructions, as newer clients name them."""

    content: Content
    name: ShortText | None = None


class UserMessage(RequestBody, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """What the user says."""

    content: Content
    name: ShortText | None = None


class AssistantMessage(RequestBody, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """What the model said earlier. Clients send back whole answers, so an answer's fields are known here, and what
    OpenAI's own client adds to them: `parsed`, `parsed_arguments`, a streamed call's `index`."""

    content: Content | None = None
    name: ShortText | None = None
    tool_calls: Annotated[list[ToolCallPart], Meta(max_length=128)] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: list[JsonObject] | None = None
    parsed: Any = None
    audio: None = None
    function_call: None = None


class ToolMessage(RequestBody, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """What a tool answered."""

    content: Content
    tool_call_id: ShortText
    name: ShortText | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionSpec(RequestBody, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(RequestBody, frozen=True, kw_only=True):
    """A tool; functions are the only kind."""

    function: FunctionSpec
    type: Literal["function"] = "function"


class ToolName(RequestBody, frozen=True, kw_only=True):
    """A tool by name."""

    name: FunctionName


class NamedTool(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """Call exactly this function."""

    function: ToolName


class ToolSubset(RequestBody, frozen=True, kw_only=True):
    """Some of the tools; `required`: one of them must be called."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedTools(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="allowed_tools"):
    """Only these of the tools may be called."""

    allowed_tools: ToolSubset


class TextFormat(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """Free text."""


class JsonFormat(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaSpec(RequestBody, frozen=True, kw_only=True):
    """A named JSON schema."""

    name: Annotated[str, Meta(max_length=64)]
    schema: JsonObject
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """JSON that follows a schema; enforced while the text is made."""

    json_schema: SchemaSpec


ResponseFormat = TextFormat | JsonFormat | SchemaFormat


class StreamOptions(RequestBody, frozen=True, kw_only=True):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(RequestBody, frozen=True, kw_only=True):
    """What chats and completions have in common; below `twd` are llama-server's names."""

    model: ModelName = "default"
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: Unit | None = None
    n: Choices | None = None
    stop: StopString | StopList | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: ShortText | None = None
    twd: TwdOptions | None = None

    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Unit | None = None
    typical_p: Unit | None = None
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1, le=65_536)] | None = None
    grammar: Annotated[str, Meta(max_length=262_144)] | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=8192)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    reasoning_format: Literal["none", "auto", "deepseek"] | None = None
    """`none` leaves thoughts in the answer, as the model wrote them."""
    chat_template_kwargs: dict[str, str | int | float | bool] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    modalities: list[Literal["text"]] | None = None
    prediction: PredictedContent | None = None
    prompt_cache_key: ShortText | None = None
    prompt_cache_retention: ShortText | None = None
    prompt_cache_options: JsonObject | None = None
    safety_identifier: ShortText | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: bool | None = None
    verbosity: Literal["medium"] | None = None
    audio: None = None
    moderation: None = None
    function_call: None = None
    functions: None = None
    web_search_options: None = None


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=262_144)]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    best_of: Choices | None = None
