"""What every backend offers, whatever server is behind it: probe, continue a text, and more where it can."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from twd.backends.clients.upstream import UpstreamServer
from twd.wire.base import INT64_MAX
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import FinishReason, Grammar, JobSubmitted, Prompt, Sampling, TokenLogprob


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server was found to be and to be able to do. Probed, never assumed."""

    kind: str
    model: str
    chat: bool = True
    text: bool = True
    tokens: bool = False
    """It takes token ids, gives them, and tokenizes."""
    score: bool = False
    """It tells in one pass what the model would choose at each place of a given text."""
    renders: bool = False
    """It turns a conversation into tokens by the model's own template."""
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
        """Whether it can be a target whose guesses are checked."""
        return self.score and self.renders

    @property
    def use(self) -> str:
        """The line for status and doctor: how this server will be used, and why."""
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
    """A text to be continued, and how."""

    prompt: Prompt
    sampling: Sampling = _GREEDY
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    ignore_eos: bool = False
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens as the server counted them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def counted(prompt: int | None, completion: int | None, cached: int | None = 0) -> TokenUsage:
    """What a server says that it counted, as far as the bus takes it."""
    return TokenUsage(*(min(max(0, count or 0), INT64_MAX) for count in (prompt, completion, cached)))


@dataclass(slots=True)
class TextPiece:
    """The next bit of a text; the last one has `end`, and counts where the server gives them."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    end: FinishReason | None = None
    stop: str = ""
    usage: TokenUsage | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


Pieces = AsyncGenerator[TextPiece, None]
"""Close it to hang up: the server then stops to compute."""


class Backend(ABC):
    """One server and one of its models. Subclasses speak its dialect."""

    kind = ""

    def __init__(self, upstream: UpstreamServer, model: str = "") -> None:
        self.upstream = upstream
        self.model = model
        """The model's name there; found by `probe` if the settings name none."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.kind} at {self.upstream.name}"

    @abstractmethod
    async def probe(self) -> Capabilities:
        """Ask what is there; raises where nothing usable answers."""

    @abstractmethod
    def stream(self, wish: CompletionWish) -> Pieces:
        """Continue a text, piece by piece as it comes. Ends with exactly one piece that has `end`, or raises."""

    def continue_tokens(self, tokens: Sequence[int], wish: CompletionWish) -> Pieces:
        """The same from tokens as `tokenize` and `score` know them; the pieces tell theirs."""
        return self.stream(replace(wish, prompt=Prompt(tokens=list(tokens))))

    async def score(self, tokens: Sequence[int], first: int) -> list[int]:
        """What the model would choose after each of the prefixes `tokens[:first + 1]` ... `tokens`, in one pass.

        UNKNOWN stands where the server did not tell; the last choice is always known.
        """
        raise self.cannot("score given tokens")

    async def is_end(self, tokens: Sequence[int], token: int) -> bool:
        """Whether the text ends when the model chooses `token` after these tokens."""
        raise self.cannot("score given tokens")

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """A text as the model's tokens; with `special`, control tokens that are spelled out become tokens."""
        raise self.cannot("tokenize")

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        raise self.cannot("turn tokens into text")

    async def render(self, prompt: Prompt) -> list[int]:
        """A prompt as the model's tokens, by its own chat template."""
        raise self.cannot("turn a conversation into tokens")

    async def close(self) -> None:
        """Hang up."""
        await self.upstream.close()

    def cannot(self, what: str, field: str = "") -> TwdError:
        """The error for something that this server has no way to do."""
        return TwdError(FailureCode.UNSUPPORTED, f"{self.name} cannot {what}", field)


def wish_of(job: JobSubmitted) -> CompletionWish:
    """What a job asks of a backend."""
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
    """What the whole answer must follow; to hold tool calls to their schemas is for the server that gets the tools."""
    return None if job.grammar is not None and job.grammar.begins else job.grammar
