"""The target of a simulated world: a pure function from seed and text so far to the next token."""

from collections.abc import Sequence
from functools import lru_cache

from twd.chat.text import Detokenizer
from twd.wire.job import JobSubmitted
from twd.wire.prefix import prefix_hash

VOCABULARY = 64
END_OF_TEXT = 1
STOP = "7.\0"
"""A stop string that never comes; but what ends like its beginning is held back until more follows."""
PROMPT_TOKENS = 4
_SEEN = 6


def prompt_tokens(prompt: str) -> list[int]:
    """A prompt of any length is four tokens here."""
    return list(_prompt_tokens(prompt))


@lru_cache(4096)
def _prompt_tokens(prompt: str) -> tuple[int, ...]:
    number = prefix_hash(prompt.encode())
    return tuple(2 + (number >> (8 * i)) % (VOCABULARY - 2) for i in range(PROMPT_TOKENS))


def choose(seed: int, history: Sequence[int]) -> int:
    """The one token that follows; about one in forty is the end."""
    return _choose(seed, len(history), *history[-_SEEN:])


@lru_cache(4096)
def _choose(*known: int) -> int:
    value = prefix_hash(known) >> 5
    return END_OF_TEXT if value % 40 == 0 else 2 + value // 40 % (VOCABULARY - 2)


def piece(token: int) -> str:
    """How a token looks to a reader."""
    return f"{token:x}."


def text_of(tokens: Sequence[int]) -> str:
    """The whole text of tokens."""
    return "".join(map(piece, tokens))


def stream() -> Detokenizer:
    """Turns tokens into the text that may be shown while more may follow."""
    return Detokenizer(lambda token: piece(token).encode(), [STOP])


def whole_text(job: JobSubmitted) -> tuple[list[int], bool]:
    """All tokens of a job, and whether it ended by itself."""
    assert job.prompt.text is not None
    assert job.sampling.seed is not None
    history = prompt_tokens(job.prompt.text)
    while job.max_tokens is None or len(history) - PROMPT_TOKENS < job.max_tokens:
        token = choose(job.sampling.seed, history)
        if token == END_OF_TEXT:
            return history[PROMPT_TOKENS:], True
        history.append(token)
    return history[PROMPT_TOKENS:], False
