"""Turns the chunks of OpenAI-style servers into pieces of text. Pure."""

from typing import Any, Final

import msgspec

from twd.backends.clients.base import TextPiece, TokenUsage, counted
from twd.wire.base import Token
from twd.wire.job import FinishReason, TokenLogprob, TopToken

GIVEN_UP: Final = ("abort", "error")
"""Finish reasons that mean that the text is not complete."""
_THINK, _THOUGHT = "<think>\n", "\n</think>\n\n"
_CALL, _NOTHING, _CALLED = '<tool_call>\n{"name": ', "{}", "}\n</tool_call>"


class ChunkFunction(msgspec.Struct):
    """A tool call, or a part of it; some servers send the arguments as an object."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ChunkToolCall(msgspec.Struct):
    """One of several tool calls, or the next part of it."""

    index: int | None = None
    function: ChunkFunction | None = None


class ChunkDelta(msgspec.Struct):
    """New text of a chat, or a whole message."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ChunkToolCall] | None = None


class TopLogprobEntry(msgspec.Struct):
    """A token and its log probability, as in chat answers."""

    token: str
    logprob: float | None = None
    id: Token | None = None
    bytes: list[int] | None = None


class LogprobEntry(TopLogprobEntry):
    """The same, with alternatives."""

    top_logprobs: list[TopLogprobEntry] | None = None


class ChunkLogprobs(msgspec.Struct):
    """Log probabilities in either of the two usual forms."""

    content: list[LogprobEntry] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class ChunkChoice(msgspec.Struct):
    """One answer, or the next part of it."""

    delta: ChunkDelta | None = None
    message: ChunkDelta | None = None
    text: str | None = None
    token_ids: list[Token] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: ChunkLogprobs | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None


class CachedTokens(msgspec.Struct):
    """How many prompt tokens came from a cache."""

    cached_tokens: int | None = None


class ChunkUsage(msgspec.Struct):
    """Token counts."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None


class CompletionChunk(msgspec.Struct):
    """A chunk of a stream, or a whole answer."""

    choices: list[ChunkChoice] = []
    usage: ChunkUsage | None = None
    error: Any = None


class ChunkReader:
    """Turns chunks into pieces. Thoughts and tool calls are written as text, as models write them."""

    def __init__(self) -> None:
        self._thinking = False
        self._call: int | None = None
        self._argued = False
        """Whether the open tool call has arguments."""
        self.end: FinishReason | None = None
        self.stop = ""
        self.usage: TokenUsage | None = None

    def feed(self, chunk: CompletionChunk) -> TextPiece | None:
        """The new text of a chunk, or None."""
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        text = self._text(choice)
        if choice.finish_reason:
            text += self._close()
            self.end = FinishReason.LENGTH if choice.finish_reason == "length" else FinishReason.STOP
            self.stop = choice.stop_reason if isinstance(choice.stop_reason, str) else ""
        if not text and not choice.token_ids:
            return None
        logprobs = [] if choice.logprobs is None else read_logprobs(choice.logprobs)
        return TextPiece(text=text, tokens=choice.token_ids or [], logprobs=logprobs)

    def last(self) -> TextPiece:
        """The piece that ends the text."""
        return TextPiece(end=self.end or FinishReason.STOP, stop=self.stop, usage=self.usage)

    def _text(self, choice: ChunkChoice) -> str:
        delta = choice.delta or choice.message
        if delta is None:
            return choice.text or ""
        return self._thoughts(delta) + self._content(delta) + self._calls(delta)

    def _thoughts(self, delta: ChunkDelta) -> str:
        thought = delta.reasoning_content or delta.reasoning or ""
        if thought and not self._thinking:
            self._thinking = True
            return _THINK + thought
        return thought

    def _content(self, delta: ChunkDelta) -> str:
        return self._close() + delta.content if delta.content else ""

    def _calls(self, delta: ChunkDelta) -> str:
        text = ""
        for call in delta.tool_calls or ():
            function = call.function or ChunkFunction()
            if function.name:
                text += self._close()
                self._call, self._argued = call.index, False
                text += f'{_CALL}{msgspec.json.encode(function.name).decode()}, "arguments": '
            arguments = _arguments(function.arguments)
            self._argued = self._argued or bool(arguments)
            text += arguments
            if call.index is None and function.name:  # a whole call, not a part of one
                self._call = -1
        return text

    def _close(self) -> str:
        """Close an open thought or tool call. Some servers send no arguments at all for a call without arguments."""
        called = _CALLED if self._argued else _NOTHING + _CALLED
        closing = (_THOUGHT if self._thinking else "") + (called if self._call is not None else "")
        self._thinking, self._call = False, None
        return closing


def _arguments(arguments: str | dict[str, Any] | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


def _usage(counts: ChunkUsage) -> TokenUsage:
    details = counts.prompt_tokens_details
    cached = details.cached_tokens if details is not None else 0
    return counted(counts.prompt_tokens, counts.completion_tokens, cached)


def read_logprobs(logprobs: ChunkLogprobs) -> list[TokenLogprob]:
    """Log probabilities as our events have them; the id is 0 if the server sends none."""
    if logprobs.content is not None:
        return [_chat_logprob(entry) for entry in logprobs.content]
    tops = logprobs.top_logprobs or []
    return [
        TokenLogprob(
            token=0,
            text=text,
            logprob=logprob if logprob is not None else 0.0,
            bytes=list(text.encode("utf-8", "replace")),
            top=_tops(tops[index] if index < len(tops) else None),
        )
        for index, (text, logprob) in enumerate(zip(logprobs.tokens or (), logprobs.token_logprobs or (), strict=False))
    ]


def _chat_logprob(entry: LogprobEntry) -> TokenLogprob:
    top = [_top(one) for one in entry.top_logprobs or ()]
    one = _top(entry)
    return TokenLogprob(token=one.token, text=one.text, logprob=one.logprob, bytes=one.bytes, top=top)


def _top(entry: TopLogprobEntry) -> TopToken:
    raw = entry.bytes if entry.bytes is not None else list(entry.token.encode("utf-8", "replace"))
    return TopToken(token=entry.id or 0, text=entry.token, logprob=entry.logprob or 0.0, bytes=raw)


def _tops(tops: dict[str, float] | None) -> list[TopToken]:
    ordered = sorted((tops or {}).items(), key=lambda item: -item[1])
    return [
        TopToken(token=0, text=text, logprob=value, bytes=list(text.encode("utf-8", "replace")))
        for text, value in ordered
    ]
