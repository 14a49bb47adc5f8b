"""The interface of every backend: probe, continue a text, and optional methods such as scoring and tokenizing."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from twd.backends.clients.upstream import UpstreamServer
from twd.backends.clients.weighing import TokenWeight
from twd.wire.base import INT64_MAX
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import FinishReason, Grammar, JobSubmitted, Prompt, Sampling, TokenLogprob


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server is and what it can do. Always probed, never assumed."""

    kind: str
    model: str
    chat: bool = True
    text: bool = True
    tokens: bool = False
    """It accepts token ids, returns them, and can tokenize."""
    score: bool = False
    """It returns, in one pass, the model's choice at each position of a given text."""
    weighs: bool = False
    """It also returns the log probabilities there, so it can judge a given answer."""
    renders: bool = False
    """It turns a conversation into tokens with the model's own chat template."""
    context: int = 0
    slots: int = 0
    architecture: str = ""
    quantization: str = ""
    parameters: int = 0
    size_bytes: int = 0
    vocabulary: int = 0
    template: str = ""
    version: str = ""
    note: str = ""

    @property
    def can_verify(self) -> bool:
        """Whether it can be a target that verifies drafts."""
        return self.score and self.renders

    @property
    def use(self) -> str:
        """A line for status and doctor: how this server is used, and why."""
        if self.can_verify:
            how = "can check guesses: it scores given tokens in one pass"
        elif self.score:
            how = "passed through as it comes: it scores given tokens, but cannot turn conversations into tokens"
        else:
            how = "passed through as it comes: it cannot score given tokens, so guesses would bring nothing"
        return f"{self.kind} {self.model!r}: {how}" + (f"; {self.note}" if self.note else "")


UNKNOWN: Final = -1
_GREEDY: Final = Sampling()


@dataclass(frozen=True, slots=True)
class CompletionWish:
    """A text to continue, and the parameters."""

    prompt: Prompt
    sampling: Sampling = _GREEDY
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    ignore_eos: bool = False
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Token counts of the server."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def counted(prompt: int | None, completion: int | None, cached: int | None = 0) -> TokenUsage:
    """The token counts of a server as TokenUsage, limited to the range that the bus allows."""
    return TokenUsage(*(min(max(0, count or 0), INT64_MAX) for count in (prompt, completion, cached)))


@dataclass(slots=True)
class TextPiece:
    """The next piece of a text. The last piece has `end`, and the token counts if the server sends them."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    end: FinishReason | None = None
    stop: str = ""
    usage: TokenUsage | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


Pieces = AsyncGenerator[TextPiece, None]
"""A stream of pieces. Closing it closes the connection, so that the server stops computing."""


class Backend(ABC):
    """One server and one of its models. Subclasses implement its API."""

    kind = ""

    def __init__(self, upstream: UpstreamServer, model: str = "") -> None:
        self.upstream = upstream
        self.model = model
        """The model's name on the server; `probe` finds it if the settings give none."""

    @property
    def name(self) -> str:
        """The server's name in messages."""
        return f"{self.kind} at {self.upstream.name}"

    @abstractmethod
    async def probe(self) -> Capabilities:
        """Ask what the server is and can do; raises if no usable server answers."""

    @abstractmethod
    def stream(self, wish: CompletionWish) -> Pieces:
        """Continue a text; yields pieces as they come. Ends with exactly one piece that has `end`, or raises."""

    def continue_tokens(self, tokens: Sequence[int], wish: CompletionWish) -> Pieces:
        """Like `stream`, but from the token ids that `tokenize` and `score` use; the pieces contain token ids."""
        return self.stream(replace(wish, prompt=Prompt(tokens=list(tokens))))

    async def score(self, tokens: Sequence[int], first: int) -> list[int]:
        """The model's choice after each of the prefixes `tokens[:first + 1]` ... `tokens`, in one pass. UNKNOWN means
        that the server did not return it; the last choice is always known.
        """
        raise self.cannot("score given tokens")

    async def weigh(self, tokens: Sequence[int], first: int) -> tuple[list[TokenWeight], int]:
        """Like `score`, with log probabilities: the weight of each token after `tokens[:first + 1]`, and the model's
        choice after the last one."""
        raise self.cannot("tell the log probabilities of given tokens")

    async def is_end(self, tokens: Sequence[int], token: int) -> bool:
        """Whether the text ends if the model chooses `token` after these tokens."""
        raise self.cannot("score given tokens")

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """The tokens of a text; with `special`, spelled-out control tokens become tokens."""
        raise self.cannot("tokenize")

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        raise self.cannot("turn tokens into text")

    async def render(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, by the model's own chat template."""
        raise self.cannot("turn a conversation into tokens")

    async def close(self) -> None:
        """Close the connections."""
        await self.upstream.close()

    def cannot(self, what: str, field: str = "") -> TwdError:
        """The error for something that this server cannot do."""
        return TwdError(FailureCode.UNSUPPORTED, f"{self.name} cannot {what}", field)


def wish_of(job: JobSubmitted) -> CompletionWish:
    """The CompletionWish of a job."""
    return CompletionWish(
        prompt=job.prompt,
        sampling=job.sampling,
        max_tokens=job.max_tokens,
        stop=tuple(job.stop),
        grammar=whole_grammar(job),
        ignore_eos=job.ignore_eos,
        logprobs=job.logprobs,
    )


def whole_grammar(job: JobSubmitted) -> Grammar | None:
    """The grammar for the whole answer. Schemas of tool calls are not included: the server gets the tools and enforces
    them itself.
    """
    return None if job.grammar is not None and job.grammar.begins else job.grammar
