"""Turns the events of chat jobs into chat completions, streamed or whole."""

from msgspec import UNSET

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta, ToolCallArguments, ToolCallStart
from twd.edge.answering import (
    AnswerChoice,
    AnswerToolCall,
    News,
    choices_of,
    facts_of,
    finish_reason,
    stream_end,
    usage_of,
)
from twd.edge.core import RequestContext
from twd.edge.http import sse
from twd.edge.http.errors import envelope
from twd.edge.openai.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatMessageOut,
    FunctionDelta,
    SpeculationMark,
    ToolCallDelta,
)
from twd.edge.openai.logprobs import chat_logprobs
from twd.edge.openai.types import ChatRequest
from twd.edge.tool_use import reader_for
from twd.wire.failures import Failure
from twd.wire.job import JobFinished, JobStarted, JobSubmitted, TokenLogprob, TokensAccepted


class ChatAnswer:
    """One answer of /v1/chat/completions."""

    prompt_field = "messages"

    def __init__(self, request: ChatRequest, jobs: list[JobSubmitted], terms: RequestContext, created: int) -> None:
        self.stream = bool(request.stream)
        self.choices = choices_of(
            jobs,
            request.n or 1,
            reader_for(jobs[0].prompt.tools, request.parallel_tool_calls is not False),
            apart=request.reasoning_format != "none",
        )
        self._mode = terms.mode
        self._logprobs = bool(request.logprobs)
        self._marks = bool(terms.options.marks)
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._head = ChatChunk(
            id=f"chatcmpl-{jobs[0].job}", created=created, model=terms.model, system_fingerprint="", choices=[]
        )
        if self._with_usage:
            self._head.usage = None

    # -- streamed ------------------------------------------------------------------------------

    def hear(self, index: int, news: News) -> bytes:
        """Add an event of a choice; returns the bytes that a stream sends now."""
        choice = self.choices[index]
        deltas = choice.hear(news)
        if isinstance(news, JobStarted):
            self._head.system_fingerprint = news.fingerprint or self._head.system_fingerprint
        if not self.stream:
            return b""
        match news:
            case JobStarted():
                return self._chunk(choice, ChatDelta(content=""))
            case TokensAccepted():
                return self._marked(choice, deltas, news)
            case JobFinished():
                return self._pieces(choice, deltas, []) + self._finish(choice)

    def _marked(self, choice: AnswerChoice, deltas: list[Delta], news: TokensAccepted) -> bytes:
        if self._marks:
            self._head.twd_mark = SpeculationMark(
                tokens=len(news.tokens), checked=news.checked, taken=news.taken, drafter=news.drafter
            )
        pieces = self._pieces(choice, deltas, news.logprobs)
        self._head.twd_mark = UNSET
        return pieces

    def _pieces(self, choice: AnswerChoice, deltas: list[Delta], logprobs: list[TokenLogprob]) -> bytes:
        """One chunk for each delta. Log probabilities are in the first chunk, or in a separate chunk if there is no
        delta.
        """
        if not self._logprobs:
            return b"".join([self._chunk(choice, _chat_delta(choice, delta)) for delta in deltas])
        if not deltas:
            return self._chunk(choice, ChatDelta(content=""), logprobs) if logprobs else b""
        first, *rest = [_chat_delta(choice, delta) for delta in deltas]
        return self._chunk(choice, first, logprobs) + b"".join([self._chunk(choice, delta) for delta in rest])

    def _finish(self, choice: AnswerChoice) -> bytes:
        if all(other.finished for other in self.choices):
            self._head.twd = facts_of(self.choices, self._mode)
        return self._chunk(choice, ChatDelta(), finish=finish_reason(choice))

    def _chunk(
        self,
        choice: AnswerChoice,
        delta: ChatDelta,
        logprobs: list[TokenLogprob] | None = None,
        finish: str | None = None,
    ) -> bytes:
        if not choice.opened:
            delta.role, choice.opened = "assistant", True
        found = chat_logprobs(logprobs) if logprobs else None
        self._head.choices = [ChatChunkChoice(index=choice.index, delta=delta, logprobs=found, finish_reason=finish)]
        return sse.event(self._head)

    def end(self) -> bytes:
        """The last bytes of a stream that succeeded."""
        return stream_end(self._head, self.choices, with_usage=self._with_usage)

    def broken(self, failure: Failure) -> bytes:
        """The last bytes of a stream that failed after its beginning."""
        return sse.event(envelope(failure)) + sse.DONE

    # -- whole ---------------------------------------------------------------------------------

    def whole(self) -> ChatCompletion:
        """The complete answer."""
        return ChatCompletion(
            id=self._head.id,
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.system_fingerprint,
            choices=[self._whole_choice(choice) for choice in self.choices],
            usage=usage_of(self.choices),
            twd=facts_of(self.choices, self._mode),
        )

    def _whole_choice(self, choice: AnswerChoice) -> ChatChoice:
        message = ChatMessageOut(content=choice.content if choice.content or not choice.calls else None)
        if choice.thought:
            message.reasoning_content = choice.thought
        if choice.calls:
            message.tool_calls = [_whole_call(call) for call in choice.calls]
        return ChatChoice(
            index=choice.index,
            message=message,
            logprobs=chat_logprobs(choice.logprobs) if self._logprobs else None,
            finish_reason=finish_reason(choice),
        )


def _whole_call(call: AnswerToolCall) -> ToolCallDelta:
    function = FunctionDelta(name=call.name, arguments="".join(call.arguments))
    return ToolCallDelta(id=call.id, type="function", function=function)


def _chat_delta(choice: AnswerChoice, delta: Delta) -> ChatDelta:
    match delta:
        case ContentDelta(text):
            return ChatDelta(content=text)
        case ThoughtDelta(text):
            return ChatDelta(reasoning_content=text)
        case ToolCallStart(index, name):
            call = choice.calls[index]
            function = FunctionDelta(name=name)
            return ChatDelta(tool_calls=[ToolCallDelta(index=index, id=call.id, type="function", function=function)])
        case ToolCallArguments(index, text):
            return ChatDelta(tool_calls=[ToolCallDelta(index=index, function=FunctionDelta(arguments=text))])
