"""A streamed chat completion, read as it comes: bytes in; text, usage and twd's own facts out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.wire.failures import sentences
from twd.wire.reading import NONSENSE

LINE_BYTES_MAX: Final = 8 * 1024 * 1024


class AnswerFacts(msgspec.Struct, frozen=True):
    """What twd tells of one answer; a server that is not twd tells nothing."""

    job: str = ""
    mode: str = ""
    seed: int | None = None
    acceptance: float | None = None
    tokens_per_pass: float | None = None
    tokens_per_second: float | None = None
    passes: int = 0
    checked: int = 0
    taken: int = 0
    drafters: list[dict[str, Any]] = []
    queued_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    workers_replaced: int = 0
    approximate: bool = False
    verdict: str = ""
    why: str = ""


class AnswerUsage(msgspec.Struct, frozen=True):
    """Tokens as the server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class ApiError(msgspec.Struct, frozen=True):
    """An error as OpenAI's APIs tell it."""

    message: str = ""
    code: str | int | None = None
    advice: str = ""


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: AnswerUsage | None = None
    twd: AnswerFacts | None = None
    error: ApiError | str | None = None
    model: str = ""


_decoder = msgspec.json.Decoder(_Chunk)


@dataclass(slots=True)
class StreamedAnswer:
    """One answer, as far as it has come. Times are seconds since it was asked for."""

    text: str = ""
    model: str = ""
    finish_reason: str = ""
    usage: AnswerUsage | None = None
    facts: AnswerFacts | None = None
    done: bool = False
    pieces: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    thought: str = ""
    """What the model thought before it answered, where its server tells that apart."""

    @property
    def tokens(self) -> int:
        """How many tokens it has; pieces of text stand for them where the server does not count."""
        return self.usage.completion_tokens if self.usage else self.pieces

    @property
    def rate(self) -> float:
        """Tokens per second, by the server's own clock where it tells."""
        if self.facts is not None and self.facts.tokens_per_second:
            return self.facts.tokens_per_second
        spent = self.last_s - self.first_s
        return (self.tokens - 1) / spent if spent > 0 and self.tokens > 1 else 0.0

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "text": self.text,
            "thought": self.thought,
            "model": self.model,
            "finish_reason": self.finish_reason,
            "usage": msgspec.to_builtins(self.usage),
            "twd": msgspec.to_builtins(self.facts),
            "tokens_per_second": round(self.rate, 2),
            "first_s": round(self.first_s, 4),
            "seconds": round(self.last_s, 4),
        }


class AnswerReader:
    """Takes a stream's bytes however they are cut."""

    def __init__(self, on_thought: Callable[[str], None] = lambda text: None) -> None:
        self.answer = StreamedAnswer()
        self._on_thought = on_thought
        self._rest = b""

    def feed(self, data: bytes, at_s: float) -> str:
        """Take what came `at_s` seconds after the question; returns the new text."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise no_sense(f"a line of more than {LINE_BYTES_MAX} bytes")
        return "".join([self._line(line.strip(), at_s) for line in lines])

    def _line(self, line: bytes, at_s: float) -> str:
        if not line.startswith(b"data:"):
            return ""
        data = line[5:].strip()
        if data == b"[DONE]":
            self.answer.done = True
            return ""
        try:
            return self._chunk(_decoder.decode(data), at_s)
        except NONSENSE as error:
            raise no_sense(str(error)) from None

    def _chunk(self, chunk: _Chunk, at_s: float) -> str:
        if chunk.error is not None:
            raise broke_off(chunk.error)
        answer = self.answer
        answer.model = chunk.model or answer.model
        answer.usage = chunk.usage or answer.usage
        answer.facts = chunk.twd or answer.facts
        new = "".join([choice.delta.content or "" for choice in chunk.choices])
        thought = "".join([choice.delta.reasoning_content or "" for choice in chunk.choices])
        ends = [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
        answer.finish_reason = ends[-1] if ends else answer.finish_reason
        if thought:
            answer.thought += thought
            self._on_thought(thought)
        if new or thought:
            answer.first_s = answer.first_s or at_s
            answer.last_s = at_s
            answer.pieces += 1
            answer.text += new
        return new

    def end(self) -> None:
        """The connection has closed: was that all?"""
        if not self.answer.done and not self.answer.finish_reason:
            raise CommandError(ExitCode.UNHEALTHY, "the answer broke off: the server closed the connection")


def broke_off(error: ApiError | str) -> CommandError:
    """An error in the middle of a stream."""
    message = error if isinstance(error, str) else sentences(error.message, error.advice)
    return CommandError(ExitCode.UNHEALTHY, f"the answer broke off: {message or 'no reason given'}")


def no_sense(why: str) -> CommandError:
    """An answer that no OpenAI-compatible server gives."""
    return CommandError(ExitCode.UNHEALTHY, f"the server's answer makes no sense: {why[:300]}")
