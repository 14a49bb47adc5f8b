"""/v1/chat/completions: a conversation to jobs, their news to an answer."""

import msgspec

from twd.edge import sse
from twd.edge.answering import Choice, News, choices_of, facts_of, usage_of
from twd.edge.core import Terms, grammar_of, jobs_for, limit_of
from twd.edge.errors import envelope
from twd.edge.openai_answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatMessageOut,
)
from twd.edge.openai_logprobs import chat_logprobs
from twd.edge.openai_types import (
    AssistantMessage,
    ChatRequest,
    Content,
    Message,
    RefusalPart,
    TextPart,
    Tool,
    ToolMessage,
)
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import ChatMessage, JobFinished, JobStarted, JobSubmitted, Prompt, TokensAccepted, ToolCall

# -- the request -------------------------------------------------------------------------------


def chat_jobs(request: ChatRequest, terms: Terms) -> list[JobSubmitted]:
    """The jobs that a chat request asks for."""
    if request.top_logprobs is not None and not request.logprobs:
        raise TwdError(FailureCode.BAD_REQUEST, "top_logprobs needs logprobs: true", "top_logprobs")
    return jobs_for(
        request,
        [chat_prompt(request)],
        terms,
        max_tokens=_limit(request, terms),
        grammar=grammar_of(request.grammar, request.response_format),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def _limit(request: ChatRequest, terms: Terms) -> int | None:
    newer = limit_of(request.max_completion_tokens, "max_completion_tokens", terms.house)
    older = limit_of(request.max_tokens, "max_tokens", terms.house)
    return older if newer is None else newer


def chat_prompt(request: ChatRequest) -> Prompt:
    """The conversation as the model's template will get it; a last assistant message is continued."""
    messages = [wire_message(message, f"messages[{i}]") for i, message in enumerate(request.messages)]
    prefill = ""
    last = messages[-1]
    if last.role == "assistant" and not last.tool_calls:
        prefill = messages.pop().content
    if not messages:
        raise TwdError(FailureCode.BAD_REQUEST, "there is nothing to answer: add a user message", "messages")
    return Prompt(
        messages=messages,
        tools=[msgspec.Raw(msgspec.json.encode(tool)) for tool in offered_tools(request)],
        template_args=template_args(request),
        prefill=prefill,
    )


def offered_tools(request: ChatRequest) -> list[Tool]:
    """The tools that the model gets to see."""
    return [] if request.tool_choice == "none" else request.tools or []


def template_args(request: ChatRequest) -> dict[str, str | int | float | bool]:
    """What goes to the chat template by name."""
    args = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        args.setdefault("reasoning_effort", request.reasoning_effort)
    return args


def wire_message(message: Message, path: str) -> ChatMessage:
    """One turn, with its content joined to plain text."""
    content = plain_text(message.content, f"{path}.content")
    calls: list[ToolCall] = []
    if isinstance(message, AssistantMessage):
        content = content or message.refusal or ""
        calls = [
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in message.tool_calls or ()
        ]
    return ChatMessage(
        role=message.__struct_config__.tag,  # type: ignore[arg-type]
        content=content,
        name=message.name or "",
        tool_calls=calls,
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else "",
    )


def plain_text(content: Content | None, path: str) -> str:
    """Content parts as one text, a line break between parts; anything but text is refused."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_part_text(part, f"{path}[{i}]") for i, part in enumerate(content))


def _part_text(part: object, path: str) -> str:
    match part:
        case TextPart(text=text):
            return text
        case RefusalPart(refusal=refusal):
            return refusal
        case _:
            kind = type(part).__struct_config__.tag  # type: ignore[attr-defined]
            raise TwdError(FailureCode.UNSUPPORTED, f"{path}: this model reads text only, not {kind}", f"{path}.type")


# -- the answer --------------------------------------------------------------------------------


class ChatAnswer:
    """Chat completions, streamed or whole."""

    def __init__(self, request: ChatRequest, jobs: list[JobSubmitted], terms: Terms, created: int) -> None:
        self.stream = bool(request.stream)
        self.choices = choices_of(jobs, request.n or 1)
        self._mode = terms.mode
        self._logprobs = bool(request.logprobs)
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._head = ChatChunk(
            id=f"chatcmpl-{jobs[0].job}", created=created, model=terms.model, system_fingerprint="", choices=[]
        )
        if self._with_usage:
            self._head.usage = None

    def hear(self, index: int, news: News) -> bytes:
        """Take in news of a choice; returns what a stream sends now."""
        choice = self.choices[index]
        choice.hear(news)
        match news:
            case JobStarted():
                self._head.system_fingerprint = news.fingerprint or self._head.system_fingerprint
                return self._chunk(choice, ChatDelta(content=""))
            case TokensAccepted():
                return self._text(choice, news)
            case JobFinished():
                return self._finish(choice)

    def _text(self, choice: Choice, news: TokensAccepted) -> bytes:
        if not news.text and not (self._logprobs and news.logprobs):
            return b""
        return self._chunk(choice, ChatDelta(content=news.text), news)

    def _finish(self, choice: Choice) -> bytes:
        if all(other.finished for other in self.choices):
            self._head.twd = facts_of(self.choices, self._mode)
        return self._chunk(choice, ChatDelta(), finish=choice.finish_reason)

    def _chunk(
        self, choice: Choice, delta: ChatDelta, news: TokensAccepted | None = None, finish: str | None = None
    ) -> bytes:
        logprobs = chat_logprobs(news.logprobs) if news is not None and self._logprobs else None
        if not choice.opened:
            delta.role, choice.opened = "assistant", True
        self._head.choices = [ChatChunkChoice(index=choice.index, delta=delta, logprobs=logprobs, finish_reason=finish)]
        return sse.event(self._head)

    def end(self) -> bytes:
        """The last bytes of a stream that went well: usage where it was asked for, then the mark."""
        if not self._with_usage:
            return sse.DONE
        self._head.choices = []
        self._head.usage = usage_of(self.choices)
        return sse.event(self._head) + sse.DONE

    def broken(self, failure: Failure) -> bytes:
        """The last bytes of a stream that failed midway."""
        return sse.event(envelope(failure)) + sse.DONE

    def whole(self) -> ChatCompletion:
        """The answer in one piece."""
        return ChatCompletion(
            id=self._head.id,
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.system_fingerprint,
            choices=[self._whole_choice(choice) for choice in self.choices],
            usage=usage_of(self.choices),
            twd=facts_of(self.choices, self._mode),
        )

    def _whole_choice(self, choice: Choice) -> ChatChoice:
        return ChatChoice(
            index=choice.index,
            message=ChatMessageOut(content="".join(choice.text)),
            logprobs=chat_logprobs(choice.logprobs) if self._logprobs else None,
            finish_reason=choice.finish_reason,
        )
