"""What clients of /v1/responses send, and what they read."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from twd.edge.http.base_types import (
    Count,
    Effort,
    FunctionName,
    JsonObject,
    ModelName,
    RequestBody,
    ShortText,
    Temperature,
    TwdOptions,
    Unit,
)
from twd.edge.openai.answers import ResponsePart, TwdFacts
from twd.edge.openai.types import JsonFormat, StreamOptions, TextFormat

# -- requests ----------------------------------------------------------------------------------


class InputText(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="input_text"):
    """Text from the user."""

    text: str
    prompt_cache_breakpoint: JsonObject | None = None


class OutputText(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    """Text that the model wrote earlier; `parsed` is what OpenAI's own client adds to it."""

    text: str
    annotations: list[JsonObject] | None = None
    logprobs: list[JsonObject] | None = None
    parsed: Any = None


class RefusalText(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    """What the model declined earlier."""

    refusal: str


class InputImage(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="input_image"):
    """Refused: twd reads text only."""

    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class InputFile(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="input_file"):
    """Refused: twd reads text only."""

    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


Part = InputText | OutputText | RefusalText | InputImage | InputFile


class MessageItem(RequestBody, frozen=True, kw_only=True):
    """A turn; the type may be left out."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    type: Literal["message"] = "message"
    id: ShortText | None = None
    status: ShortText | None = None
    phase: ShortText | None = None


class ReasoningText(RequestBody, frozen=True, kw_only=True):
    """A thought in the model's own words."""

    text: str
    type: Literal["reasoning_text"] = "reasoning_text"


class ReasoningItem(RequestBody, frozen=True, kw_only=True):
    """What the model thought before its next item."""

    type: Literal["reasoning"] = "reasoning"
    id: ShortText | None = None
    summary: list[JsonObject] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: ShortText | None = None


class FunctionCallItem(RequestBody, frozen=True, kw_only=True):
    """A call that the model made earlier; `parsed_arguments` is what OpenAI's own client adds to it."""

    call_id: ShortText
    name: ShortText
    arguments: str
    type: Literal["function_call"] = "function_call"
    id: ShortText | None = None
    status: ShortText | None = None
    namespace: ShortText | None = None
    caller: JsonObject | None = None
    parsed_arguments: Any = None


class FunctionOutputItem(RequestBody, frozen=True, kw_only=True):
    """What a function answered."""

    call_id: ShortText
    output: str | list[Part]
    type: Literal["function_call_output"] = "function_call_output"
    id: ShortText | None = None
    status: ShortText | None = None
    name: ShortText | None = None
    namespace: ShortText | None = None
    caller: JsonObject | None = None


class FunctionTool(RequestBody, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: FunctionName
    type: Literal["function"] = "function"
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamedFunction(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """Call exactly this function."""

    name: FunctionName


class AllowedFunctions(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="allowed_tools"):
    """Only these of the tools may be called; `required`: one of them must be."""

    mode: Literal["auto", "required"]
    tools: list[NamedFunction]


class NamedSchema(RequestBody, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    name: Annotated[str, Meta(max_length=64)]
    schema: JsonObject
    description: str | None = None
    strict: bool | None = None


class TextOptions(RequestBody, frozen=True, kw_only=True):
    """The shape of the answer."""

    format: TextFormat | JsonFormat | NamedSchema | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(RequestBody, frozen=True, kw_only=True):
    """How much to think, where the model's template knows about it."""

    effort: Effort | None = None
    summary: ShortText | None = None
    generate_summary: ShortText | None = None


class ResponsesRequest(RequestBody, frozen=True, kw_only=True):
    """POST /v1/responses."""

    input: str | Annotated[list[JsonObject], Meta(max_length=8192)] = ""
    model: ModelName = "default"
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_tool_calls: Count | None = None
    """Of tools that the server itself runs; there are none here, so any limit is kept."""
    temperature: Temperature | None = None
    top_p: Unit | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[JsonObject], Meta(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | AllowedFunctions | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    client_metadata: JsonObject | None = None
    truncation: Literal["disabled", "auto"] | None = None
    store: bool | None = None
    user: ShortText | None = None
    safety_identifier: ShortText | None = None
    service_tier: ShortText | None = None
    prompt_cache_key: ShortText | None = None
    prompt_cache_retention: ShortText | None = None
    prompt_cache_options: JsonObject | None = None
    top_logprobs: Literal[0] | None = None
    context_management: None = None
    moderation: None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    twd: TwdOptions | None = None


# -- answers -----------------------------------------------------------------------------------


class ContentOut(ResponsePart, kw_only=True):
    """Text of an answer, or of a thought."""

    type: Literal["output_text", "reasoning_text"]
    text: str
    annotations: list[JsonObject] | UnsetType = UNSET
    logprobs: list[JsonObject] | UnsetType = UNSET


class ItemOut(ResponsePart, kw_only=True):
    """A message, a call or a thought of an answer."""

    id: str
    type: Literal["message", "function_call", "reasoning"]
    status: str
    summary: list[JsonObject] | UnsetType = UNSET
    role: str | UnsetType = UNSET
    content: list[ContentOut] | UnsetType = UNSET
    call_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class InputDetails(ResponsePart, kw_only=True):
    """How much of the prompt was in the cache already."""

    cached_tokens: int


class OutputDetails(ResponsePart, kw_only=True):
    """How much of it was thinking."""

    reasoning_tokens: int = 0


class ResponseUsage(ResponsePart, kw_only=True):
    """Counted tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseOut(ResponsePart, kw_only=True):
    """An answer, whole or on its way."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: str
    background: bool = False
    error: dict[str, str] | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[ItemOut]
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: dict[str, str | None]
    service_tier: str = "default"
    store: bool = False
    temperature: float
    text: dict[str, Any]
    tool_choice: str | JsonObject
    tools: list[JsonObject]
    top_logprobs: int = 0
    top_p: float
    truncation: str
    usage: ResponseUsage | None = None
    user: str | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    twd: TwdFacts | UnsetType = UNSET


class ResponseEvent(ResponsePart, kw_only=True):
    """One event of a stream; the fields depend on its type."""

    type: str
    sequence_number: int
    response: ResponseOut | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    item: ItemOut | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    part: ContentOut | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    logprobs: list[JsonObject] | UnsetType = UNSET
    code: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    param: str | UnsetType | None = UNSET
