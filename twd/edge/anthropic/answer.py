"""Turns the events of a job into Anthropic's message, streamed or whole."""

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta, ToolCallArguments, ToolCallStart
from twd.edge.answering import AnswerChoice, News, choices_of, facts_of
from twd.edge.anthropic.messages import allows_parallel_calls
from twd.edge.anthropic.types import BlockOut, MessageOut, MessagesRequest, MessageUsage, StreamEvent
from twd.edge.core import RequestContext
from twd.edge.http import sse
from twd.edge.http.errors import anthropic_envelope
from twd.edge.tool_use import reader_for
from twd.wire.failures import Failure
from twd.wire.job import JobFinished, JobSubmitted
from twd.wire.reading import read_as


class MessageAnswer:
    """One answer of /v1/messages."""

    prompt_field = "messages"

    def __init__(self, request: MessagesRequest, jobs: list[JobSubmitted], terms: RequestContext) -> None:
        self.stream = bool(request.stream)
        self.choices = choices_of(jobs, 1, reader_for(jobs[0].prompt.tools, allows_parallel_calls(request)))
        self._mode = terms.mode
        self._model = terms.model
        self._blocks = 0
        self._open: int | str | None = None
        """The call index of the open block, or its type; None if no block is open."""

    @property
    def _choice(self) -> AnswerChoice:
        return self.choices[0]

    # -- streamed ------------------------------------------------------------------------------

    def hear(self, index: int, news: News) -> bytes:
        """Add an event of the job; returns the bytes that a stream sends now."""
        deltas = self._choice.hear(news)
        if not self.stream:
            return b""
        pieces = [] if self._choice.opened else [self._begin()]
        pieces += [self._piece(delta) for delta in deltas]
        if isinstance(news, JobFinished):
            pieces += [self._close_block(), self._message_delta(), _event(StreamEvent(type="message_stop"))]
        return b"".join(pieces)

    def _begin(self) -> bytes:
        self._choice.opened = True
        return _event(StreamEvent(type="message_start", message=self._message([])))

    def _piece(self, delta: Delta) -> bytes:
        match delta:
            case ContentDelta(text):
                opening = self._open_block("text", BlockOut(type="text", text=""))
                return opening + self._block_delta({"type": "text_delta", "text": text})
            case ThoughtDelta(text):
                opening = self._open_block("thinking", BlockOut(type="thinking", thinking="", signature=""))
                return opening + self._block_delta({"type": "thinking_delta", "thinking": text})
            case ToolCallStart(index, name):
                call = self._choice.calls[index]
                return self._open_block(index, BlockOut(type="tool_use", id=_tool_id(call.id), name=name, input={}))
            case ToolCallArguments(_, text):
                return self._block_delta({"type": "input_json_delta", "partial_json": text})

    def _open_block(self, what: int | str, block: BlockOut) -> bytes:
        if self._open == what:
            return b""
        closing, self._open = self._close_block(), what
        return closing + _event(StreamEvent(type="content_block_start", index=self._blocks, content_block=block))

    def _block_delta(self, delta: dict[str, str]) -> bytes:
        return _event(StreamEvent(type="content_block_delta", index=self._blocks, delta=delta))

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        self._blocks += 1
        return _event(StreamEvent(type="content_block_stop", index=self._blocks - 1))

    def _message_delta(self) -> bytes:
        delta = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        facts = facts_of(self.choices, self._mode)
        return _event(StreamEvent(type="message_delta", delta=delta, usage=self._usage(), twd=facts))

    def end(self) -> bytes:
        """Empty: the last event of the job has sent everything."""
        return b""

    def broken(self, failure: Failure) -> bytes:
        """The last bytes of a stream that failed after its beginning."""
        return sse.event(anthropic_envelope(failure), "error")

    # -- whole ---------------------------------------------------------------------------------

    def whole(self) -> MessageOut:
        """The complete answer."""
        choice = self._choice
        blocks = [BlockOut(type="thinking", thinking=choice.thought, signature="")] if choice.thought else []
        if choice.content or not choice.calls:
            blocks.append(BlockOut(type="text", text=choice.content))
        for call in choice.calls:
            arguments = _object("".join(call.arguments))
            blocks.append(BlockOut(type="tool_use", id=_tool_id(call.id), name=call.name, input=arguments))
        message = self._message(blocks)
        message.stop_reason, message.stop_sequence = self._stop_reason, self._stop_sequence
        message.twd = facts_of(self.choices, self._mode)
        return message

    def _message(self, blocks: list[BlockOut]) -> MessageOut:
        return MessageOut(id=f"msg_{self._choice.job.job}", model=self._model, content=blocks, usage=self._usage())

    @property
    def _stop_sequence(self) -> str | None:
        """The stop string that ended the text, if the client gave it; chat templates have stop strings of their own."""
        stop = self._choice.finished.stop if self._choice.finished else ""
        return stop if stop in self._choice.job.stop else None

    @property
    def _stop_reason(self) -> str:
        if self._choice.cut:
            return "max_tokens"
        if self._choice.calls:
            return "tool_use"
        return "stop_sequence" if self._stop_sequence else "end_turn"

    def _usage(self) -> MessageUsage:
        prompt, cached = self._choice.prompt_counts
        return MessageUsage(
            input_tokens=max(0, prompt - cached),
            output_tokens=self._choice.completion_tokens,
            cache_read_input_tokens=cached,
        )


def _event(event: StreamEvent) -> bytes:
    return sse.event(event, event.type)


def _tool_id(call_id: str) -> str:
    return call_id.replace("call_", "toolu_", 1)


def _object(text: str) -> dict[str, object]:
    """The arguments of a call; incomplete arguments, or ones that are not an object, are kept as text."""
    arguments = read_as(dict[str, object], text or "{}")
    return {"arguments": text} if arguments is None else arguments
