"""What OpenAI's clients read: whole answers, stream chunks, model cards and the error envelope."""

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class ResponsePart(msgspec.Struct, kw_only=True):
    """A part of an answer; unset fields are left out, null ones are written."""


class PromptDetails(ResponsePart, kw_only=True):
    """How much of the prompt was in the cache already."""

    cached_tokens: int = 0


class CompletionDetails(ResponsePart, kw_only=True):
    """What the model thought, and what became of the text that the client expected."""

    reasoning_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class CompletionUsage(ResponsePart, kw_only=True):
    """Counted tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | UnsetType = UNSET


class DrafterFacts(ResponsePart, kw_only=True):
    """What one drafter brought."""

    drafter: str
    checked: int
    taken: int


class TwdFacts(ResponsePart, kw_only=True):
    """What twd did for this answer."""

    job: str
    mode: str
    seed: int
    jobs: list[str] | UnsetType = UNSET
    acceptance: float | None = None
    tokens_per_pass: float | None = None
    passes: int = 0
    checked: int = 0
    taken: int = 0
    drafters: list[DrafterFacts] = []
    queued_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    tokens_per_second: float | None = None
    workers_replaced: int = 0
    approximate: bool = False
    """The text need not be the one that the model would have written."""
    verdict: str | UnsetType = UNSET
    member: str | UnsetType = UNSET
    score: float | UnsetType = UNSET
    unlike: int | UnsetType = UNSET
    """Tokens that the model would not have picked."""
    why: str | UnsetType = UNSET


class TopLogprob(ResponsePart, kw_only=True):
    """An alternative token."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TopLogprob, kw_only=True):
    """A token of the answer with its alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(ResponsePart, kw_only=True):
    """Log probabilities of a choice."""

    content: list[ContentLogprob]
    refusal: None = None


class FunctionDelta(ResponsePart, kw_only=True):
    """Name and arguments of a call, or the next piece of its arguments."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(ResponsePart, kw_only=True):
    """A tool call, or the next piece of it."""

    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionDelta


class ChatMessageOut(ResponsePart, kw_only=True):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    reasoning_content: str | UnsetType = UNSET
    refusal: None = None
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChoice(ResponsePart, kw_only=True):
    """One of the n answers."""

    index: int
    message: ChatMessageOut
    logprobs: ChatLogprobs | None = None
    finish_reason: str


class ChatCompletion(ResponsePart, kw_only=True):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    system_fingerprint: str
    twd: TwdFacts


class ChatDelta(ResponsePart, kw_only=True):
    """What is new."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(ResponsePart, kw_only=True):
    """News of one choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class SpeculationMark(ResponsePart, kw_only=True):
    """What speculation brought to one chunk: of `tokens`, `taken` were guessed by `drafter`."""

    tokens: int
    checked: int
    taken: int
    drafter: str


class ChatChunk(ResponsePart, kw_only=True):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | UnsetType | None = UNSET
    twd: TwdFacts | UnsetType = UNSET
    twd_mark: SpeculationMark | UnsetType = UNSET


class TextLogprobs(ResponsePart, kw_only=True):
    """Log probabilities in the shape of /v1/completions."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(ResponsePart, kw_only=True):
    """One answer of /v1/completions, whole or a piece of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None


class TextCompletion(ResponsePart, kw_only=True):
    """A whole answer of /v1/completions, or one event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: CompletionUsage | UnsetType | None = UNSET
    twd: TwdFacts | UnsetType = UNSET


class ModelCard(ResponsePart, kw_only=True):
    """A model as /v1/models shows it; `type`, `display_name` and `created_at` are for Anthropic's clients."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "twd"
    type: Literal["model"] = "model"
    display_name: str = ""
    created_at: str = ""
    twd: dict[str, Any] = {}

    def __post_init__(self) -> None:
        self.display_name = self.display_name or self.id
        self.created_at = datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ModelList(ResponsePart, kw_only=True):
    """All models, on one page; `models` is where some clients look, and Anthropic's ask for the ids at the ends."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    models: list[dict[str, Any]] = []
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None

    def __post_init__(self) -> None:
        if self.data:
            self.first_id, self.last_id = self.data[0].id, self.data[-1].id


class ErrorBody(ResponsePart, kw_only=True):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str
    advice: str = ""


class ErrorEnvelope(ResponsePart, kw_only=True):
    """OpenAI's shape of an error."""

    error: ErrorBody
