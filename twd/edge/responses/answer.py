"""Turns the events of a job into a response, streamed as typed events or whole."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta, ToolCallArguments, ToolCallStart
from twd.edge.answering import AnswerChoice, News, choices_of, facts_of
from twd.edge.core import DEFAULT_TEMPERATURE, RequestContext
from twd.edge.http import sse
from twd.edge.http.errors import CODES
from twd.edge.responses.types import (
    ContentOut,
    InputDetails,
    ItemOut,
    OutputDetails,
    ResponseEvent,
    ResponseOut,
    ResponsesRequest,
    ResponseUsage,
)
from twd.edge.tool_use import reader_for
from twd.wire.failures import Failure
from twd.wire.job import JobFinished, JobSubmitted


class ResponseAnswer:
    """One answer of /v1/responses."""

    prompt_field = "input"

    def __init__(
        self, request: ResponsesRequest, jobs: list[JobSubmitted], terms: RequestContext, now_s: Callable[[], int]
    ) -> None:
        self.stream = bool(request.stream)
        self.choices = choices_of(jobs, 1, reader_for(jobs[0].prompt.tools, request.parallel_tool_calls is not False))
        self._mode = terms.mode
        self._now_s = now_s
        self._sequence = 0
        self._items: list[ItemOut] = []
        self._response = _head(request, terms, f"resp_{jobs[0].job}", now_s())

    @property
    def _choice(self) -> AnswerChoice:
        return self.choices[0]

    # -- streamed ------------------------------------------------------------------------------

    def hear(self, index: int, news: News) -> bytes:
        """Add an event of the job; returns the bytes that a stream sends now."""
        pieces = [] if self._choice.opened else self._begin()
        pieces += [piece for delta in self._choice.hear(news) for piece in self._follow(delta)]
        if isinstance(news, JobFinished):
            pieces += [*self._end_item(), self._end_response()]
        return b"".join(pieces) if self.stream else b""

    def _begin(self) -> list[bytes]:
        self._choice.opened = True
        return [self._event(f"response.{state}", response=self._response) for state in ("created", "in_progress")]

    def _follow(self, delta: Delta) -> list[bytes]:
        match delta:
            case ContentDelta(text):
                return [*self._begin_text("message"), self._said(text)]
            case ThoughtDelta(text):
                return [*self._begin_text("reasoning"), self._said(text)]
            case ToolCallStart(index, name):
                return self._begin_call(index, name)
            case ToolCallArguments(_, text):
                item = self._items[-1]
                item.arguments = (item.arguments or "") + text
                kind = "response.function_call_arguments.delta"
                return [self._event(kind, item_id=item.id, output_index=self._place, delta=text)]

    @property
    def _place(self) -> int:
        return len(self._items) - 1

    @property
    def _open(self) -> ItemOut | None:
        last = self._items[-1] if self._items else None
        return last if last is not None and last.status == "in_progress" else None

    def _begin_text(self, kind: Literal["message", "reasoning"]) -> list[bytes]:
        if self._open is not None and self._open.type == kind:
            return []
        ended = self._end_item()
        if kind == "message":
            item = ItemOut(id=self._item_id("msg"), type=kind, status="in_progress", role="assistant", content=[])
            part = ContentOut(type="output_text", text="", annotations=[], logprobs=[])
        else:
            item = ItemOut(id=self._item_id("rs"), type=kind, status="in_progress", summary=[], content=[])
            part = ContentOut(type="reasoning_text", text="")
        self._items.append(item)
        added = self._event("response.output_item.added", output_index=self._place, item=item)
        opened = self._event("response.content_part.added", part=part, **self._where(item))
        item.content = [part]
        return [*ended, added, opened]

    def _said(self, text: str) -> bytes:
        item = self._items[-1]
        assert item.content
        (part,) = item.content
        part.text += text
        return self._event(f"response.{part.type}.delta", delta=text, logprobs=part.logprobs, **self._where(item))

    def _begin_call(self, index: int, name: str) -> list[bytes]:
        ended = self._end_item()
        item = ItemOut(
            id=self._item_id("fc"),
            type="function_call",
            status="in_progress",
            call_id=self._choice.calls[index].id,
            name=name,
            arguments="",
        )
        self._items.append(item)
        return [*ended, self._event("response.output_item.added", output_index=self._place, item=item)]

    def _end_item(self) -> list[bytes]:
        """The events that complete the open item."""
        item = self._open
        if item is None:
            return []
        item.status = "incomplete" if self._choice.cut else "completed"
        pieces = self._item_done(item)
        return [*pieces, self._event("response.output_item.done", output_index=self._place, item=item)]

    def _item_done(self, item: ItemOut) -> list[bytes]:
        if not item.content:
            kind = "response.function_call_arguments.done"
            where: dict[str, Any] = {"item_id": item.id, "output_index": self._place}
            return [self._event(kind, name=item.name, arguments=item.arguments, **where)]
        (part,) = item.content
        where = self._where(item)
        said = self._event(f"response.{part.type}.done", text=part.text, logprobs=part.logprobs, **where)
        return [said, self._event("response.content_part.done", part=part, **where)]

    def _where(self, item: ItemOut) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": self._place, "content_index": 0}

    def _item_id(self, kind: str) -> str:
        return f"{kind}_{self._choice.job.job}_{len(self._items)}"

    def _end_response(self) -> bytes:
        return self._event(f"response.{'incomplete' if self._choice.cut else 'completed'}", response=self.whole())

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = ResponseEvent(type=kind, sequence_number=self._sequence, **fields)
        self._sequence += 1
        return sse.event(event, kind)

    def end(self) -> bytes:
        """Empty: the last event of the job has sent everything."""
        return b""

    def broken(self, failure: Failure) -> bytes:
        """The last bytes of a stream that failed; if nothing was sent before, they include the first events."""
        begun = [] if self._choice.opened else self._begin()
        code = CODES.get(failure.code, failure.code.value)
        error = self._event("error", code=code, message=failure.message, param=failure.field or None)
        self._response.status = "failed"
        self._response.error = {"code": code, "message": failure.message}
        self._response.output = self._items
        if self._open is not None:
            self._open.status = "incomplete"
        return b"".join([*begun, error, self._event("response.failed", response=self._response)])

    # -- whole ---------------------------------------------------------------------------------

    def whole(self) -> ResponseOut:
        """The complete answer."""
        response = self._response
        response.status = "incomplete" if self._choice.cut else "completed"
        response.incomplete_details = {"reason": "max_output_tokens"} if self._choice.cut else None
        response.completed_at = None if self._choice.cut else self._now_s()
        response.output = self._items
        response.usage = self._usage()
        response.twd = facts_of(self.choices, self._mode)
        return response

    def _usage(self) -> ResponseUsage:
        prompt, cached = self._choice.prompt_counts
        completion = self._choice.completion_tokens
        return ResponseUsage(
            input_tokens=prompt,
            input_tokens_details=InputDetails(cached_tokens=cached),
            output_tokens=completion,
            output_tokens_details=OutputDetails(reasoning_tokens=self._choice.thought_tokens),
            total_tokens=prompt + completion,
        )


def _head(request: ResponsesRequest, terms: RequestContext, name: str, created: int) -> ResponseOut:
    """The response before any output: the request's options, with defaults filled in."""
    wanted = request.tool_choice or "auto"
    reasoning, text = request.reasoning, request.text
    return ResponseOut(
        id=name,
        created_at=created,
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        model=terms.model,
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        reasoning={"effort": reasoning.effort if reasoning else None, "summary": None},
        temperature=DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
        text={"format": msgspec.to_builtins(text.format) if text and text.format else {"type": "text"}},
        tool_choice=wanted if isinstance(wanted, str) else msgspec.to_builtins(wanted),
        tools=[{"strict": None, "description": None, "parameters": None} | tool for tool in request.tools or ()],
        top_p=1.0 if request.top_p is None else request.top_p,
        truncation=request.truncation or "disabled",
        user=request.user,
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
    )
