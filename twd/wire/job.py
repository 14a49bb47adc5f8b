"""A request's way: submitted, started, told token by token, ended exactly once."""

import enum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from twd.wire.base import (
    Attempt,
    Count,
    Event,
    InstanceId,
    JobId,
    ModelId,
    Name,
    Part,
    Position,
    SessionId,
    Share,
    Token,
    Tokens,
)
from twd.wire.failures import Failure

Temperature = Annotated[float, Meta(ge=0.0, le=100.0)]
Penalty = Annotated[float, Meta(ge=-10.0, le=10.0)]
Seed = Annotated[int, Meta(ge=0, lt=2**53)]
CALIBRATION: Final = "calibration-"
"""So begin the names of jobs by which a speculator measures a drafter; nobody asked for them."""
PREDICTION_MAX: Final = 262_144
StopStrings = Annotated[list[Annotated[str, Meta(min_length=1, max_length=1024)]], Meta(max_length=16)]


class Sampling(Part, frozen=True):
    """How `pick` chooses among the target's logits; the defaults are greedy and plain."""

    temperature: Temperature = 0.0
    top_k: Count = 0
    top_p: Share = 1.0
    min_p: Share = 0.0
    typical_p: Share = 1.0
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] = 1.0
    repeat_last_n: Annotated[int, Meta(ge=-1, le=65536)] = 64
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    dry_multiplier: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    dry_base: Annotated[float, Meta(ge=1.0, le=10.0)] = 1.75
    dry_allowed_length: Annotated[int, Meta(ge=1, le=1024)] = 2
    logit_bias: dict[int, Annotated[float, Meta(ge=-100.0, le=100.0)]] = {}
    seed: Seed | None = None


class GrammarKind(enum.StrEnum):
    """What language a grammar is written in."""

    GBNF = "gbnf"
    JSON_SCHEMA = "json_schema"
    JSON = "json"
    CALLS = "calls"
    """Calls of tools as a format of their own writes them, with arguments by schemas."""


class Grammar(Part, frozen=True):
    """What the answer must look like; enforced in `pick`."""

    kind: GrammarKind
    text: Annotated[str, Meta(max_length=262_144)] = ""
    begins: Annotated[str, Meta(max_length=256)] = ""
    """Where this is given, the answer is free, and only what follows this mark must look so, as often as it comes."""
    ends: Annotated[str, Meta(max_length=256)] = ""
    """The mark behind which it is free again; empty: as soon as the grammar is complete."""
    rest: bool = False
    """All that follows the first `begins` must look so, and the text may not end before it does."""
    opens: Annotated[str, Meta(max_length=256)] = ""
    """With `rest`: only a text that begins with this mark is free up to `begins`; any other must look so at once."""
    field: Annotated[str, Meta(max_length=256)] = "grammar"
    """What of the request it comes from: who reads of a mistake in it should know where to look."""


class ToolCall(Part, frozen=True):
    """A call that the assistant made earlier in the conversation."""

    id: str
    name: str
    arguments: str


class ChatMessage(Part, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    name: str = ""
    tool_calls: list[ToolCall] = []
    tool_call_id: str = ""
    thoughts: str = ""
    """What the assistant thought before it said so."""


class Prompt(Part, frozen=True):
    """What to continue: a conversation, a text, or token ids; exactly one of them is used."""

    messages: list[ChatMessage] | None = None
    text: str | None = None
    tokens: Tokens | None = None
    tools: list[msgspec.Raw] = []
    template_args: dict[str, str | int | float | bool] = {}
    prefill: str = ""
    suffix: str = ""
    """What comes behind the text that is wanted; goes with `text`, and needs a model that fills in the middle."""
    truncate: bool = False
    """Early turns may be left out of `messages` where the whole does not fit the context."""


class Speculation(Part, frozen=True):
    """How much to guess ahead. `window` 0 means: as much as pays."""

    enabled: bool = True
    window: Annotated[int, Meta(ge=0, le=96)] = 0
    prediction: Annotated[str, Meta(max_length=PREDICTION_MAX)] = ""
    """What the client expects as the answer, or most of it."""
    recall: bool = True
    """Whether answers to other jobs are looked into for this one, and this one for others."""


class JobSubmitted(Event, frozen=True, tag="twd.v1.job.submitted"):
    """Somebody wants text. Answered by JobQueued, or by JobFailed at once."""

    job: JobId
    model: ModelId
    owner: InstanceId
    prompt: Prompt
    attempt: Attempt = 1
    sampling: Sampling = Sampling()
    grammar: Grammar | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    at_most: bool = False
    """So many tokens need not fit in the context: the text ends where that does."""
    stop: StopStrings = []
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    ignore_eos: bool = False
    whole: bool = False
    """Nobody reads the text before its end, so pieces of it that come close together may travel together."""
    speculation: Speculation = Speculation()
    resume: Tokens = []
    created_ms: Count = 0
    """When the request came in; templates that write the date use this, the same for every attempt."""
    deadline_ms: Annotated[int, Meta(ge=1)] = 600_000


class JobQueued(Event, frozen=True, tag="twd.v1.job.queued"):
    """A speculator took the job; `ahead` jobs wait before it."""

    job: JobId
    attempt: Attempt
    speculator: InstanceId
    ahead: Count = 0


class Thoughts(Part, frozen=True):
    """The marks around what a model thinks before it answers; only the beginning of an answer is looked at for them."""

    begins: Annotated[str, Meta(min_length=1, max_length=64)]
    ends: Annotated[str, Meta(min_length=1, max_length=64)]
    open: bool = False
    """The prompt ends within a thought, and the answer goes on with it."""


class JobStarted(Event, frozen=True, tag="twd.v1.job.started"):
    """The prompt is tokenized and prefill begins."""

    job: JobId
    attempt: Attempt
    session: SessionId
    model: ModelId
    prompt_tokens: Count
    cached_tokens: Count = 0
    seed: Seed = 0
    fingerprint: str = ""
    thoughts: Thoughts | None = None


class TopToken(Part, frozen=True):
    """One alternative and how likely the target held it."""

    token: Token
    text: str
    logprob: float
    bytes: list[int] = []


class TokenLogprob(Part, frozen=True):
    """A chosen token with its log probability and the likeliest alternatives."""

    token: Token
    text: str
    logprob: float
    bytes: list[int] = []
    top: list[TopToken] = []


class TokensAccepted(Event, frozen=True, tag="twd.v1.tokens.accepted"):
    """The target decided: these tokens stand at `at`. Positions make repeats harmless."""

    job: JobId
    attempt: Attempt
    session: SessionId
    at: Position
    index: Count
    tokens: Tokens
    text: str = ""
    checked: Count = 0
    taken: Count = 0
    drafter: str = ""
    logprobs: list[TokenLogprob] = []
    lengths: list[Count] = []
    """How much of the text is each token's, where the answer may hold thoughts: these are counted in tokens."""
    model: ModelId = ModelId("")


class JobCancelled(Event, frozen=True, tag="twd.v1.job.cancelled"):
    """The owner no longer wants the answer: of this job, or only of attempts up to `attempts`."""

    job: JobId
    attempts: Count = 0
    reason: str = ""


class FinishReason(enum.StrEnum):
    """Why a text ended."""

    STOP = "stop"
    LENGTH = "length"


class DrafterShare(Part, frozen=True):
    """What one drafter brought to one job."""

    drafter: Name
    checked: Count = 0
    taken: Count = 0


class JobStats(Part, frozen=True):
    """What a job cost and what speculation did for it."""

    prompt_tokens: Count = 0
    cached_tokens: Count = 0
    completion_tokens: Count = 0
    passes: Count = 0
    checked: Count = 0
    taken: Count = 0
    taken_at: list[int] = []
    checked_at: list[int] = []
    drafters: list[DrafterShare] = []
    predicted: Count = 0
    """Tokens of the answer that the client expected."""
    foretold: Count = 0
    """Those of them that came."""
    queued_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


class JobFinished(Event, frozen=True, tag="twd.v1.job.finished"):
    """The text is whole. `tail` is what was held back until it was clear that nothing follows."""

    job: JobId
    attempt: Attempt
    reason: FinishReason
    stats: JobStats
    tail: str = ""
    seed: Seed = 0
    stop: str = ""
    session: SessionId = SessionId("")
    model: ModelId = ModelId("")
    """Filled in where it is published."""


class JobFailed(Event, frozen=True, tag="twd.v1.job.failed"):
    """The job ended without its whole text; `failure` says why."""

    job: JobId
    attempt: Attempt
    failure: Failure
    stats: JobStats = JobStats()
    session: SessionId = SessionId("")
    model: ModelId = ModelId("")
    """Filled in where it is published."""
