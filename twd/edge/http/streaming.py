"""Sends one generated answer: waits for events of its jobs, and writes them to the client as they come."""

from dataclasses import dataclass

from aiohttp import web
from msgspec.structs import replace

from twd.edge.answering import ApiAnswer, fact_headers, facts_of
from twd.edge.http import sse
from twd.edge.http.replies import STALL_S, end_stream, json_reply, open_stream, write
from twd.edge.inflight_requests import InFlightRequest
from twd.wire.failures import Failure, TwdError
from twd.wire.job import JobFinished, JobStarted

MANY_NEWS = 64
"""If the client does not stream, this many events are read at once."""
PROMPT_FIELDS = frozenset({"prompt", "messages"})
"""Field names that models use for the prompt in their failures."""
SMALL_BYTES = 16 * 1024
"""A piece smaller than this is sent without waiting if nothing else waits to be sent."""


@dataclass(frozen=True, slots=True)
class AnswerDelivery:
    """One call and the answer that is made from its events."""

    request: web.Request
    call: InFlightRequest
    answer: ApiAnswer
    mode: str
    keepalive_s: float

    async def run(self) -> web.StreamResponse:
        """Stream the answer or collect it, as the client asked."""
        return await (self._stream() if self.answer.stream else self._collect())

    def _take(self) -> tuple[bytes, Failure | None]:
        """All waiting events, as bytes to send, and the failure that ends the answer, if there is one."""
        pieces: list[bytes] = []
        news = self.call.news
        while news:
            index, item = news.popleft()
            if isinstance(item, Failure):
                return b"".join(pieces), self._told(item)
            self.answer.choices[index].workers_replaced = self.call.lines[index].owner.taken_over
            pieces.append(self.answer.hear(index, item))
        return b"".join(pieces), None

    def _told(self, failure: Failure) -> Failure:
        """The failure with the field name of this API, which the model does not know."""
        return replace(failure, field=self.answer.prompt_field) if failure.field in PROMPT_FIELDS else failure

    @property
    def _over(self) -> bool:
        return self.call.ended and not self.call.news

    async def _collect(self) -> web.StreamResponse:
        while not self._over:
            await self.call.wait(self.keepalive_s, MANY_NEWS)
            _, failure = self._take()
            if failure is not None:
                raise DeliveryFailed(failure)
        headers = fact_headers(facts_of(self.answer.choices, self.mode))
        return json_reply(self.answer.whole(), headers=headers)

    async def _stream(self) -> web.StreamResponse:
        await self.call.wait(self.keepalive_s)
        piece, failure = self._take()
        if failure is not None and not piece:
            raise DeliveryFailed(failure)
        response = await open_stream(self.request, fact_headers(facts_of(self.answer.choices, self.mode)))
        await self._write(response, piece or sse.KEEP_ALIVE)
        if response.headers.get("Transfer-Encoding") == "chunked":
            self.call.at_once = self._pass_on
        while failure is None and not self._over:
            came = await self.call.wait(self.keepalive_s)
            piece, failure = self._take()
            await self._write(response, piece if came else sse.KEEP_ALIVE)
        await self._write(response, self.answer.end() if failure is None else self.answer.broken(failure))
        await end_stream(self.request, response)
        return response

    def _pass_on(self) -> bool:
        """Send the waiting events to a client that keeps up; returns False if it does not. This avoids waking a task,
        which would cost more than all the rest.
        """
        transport = self.request.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        piece, _ = self._take()
        if piece:
            transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.call.begin_anew()
        return True

    async def _write(self, response: web.StreamResponse, piece: bytes) -> None:
        if not piece:
            return
        transport = self.request.transport
        if len(piece) < SMALL_BYTES and transport is not None and not transport.get_write_buffer_size():
            await response.write(piece)  # returns at once
            return
        await write(self.request, response, piece)


async def prompt_tokens(call: InFlightRequest) -> int:
    """The number of tokens in the prompt of a call's job. It is known when the job starts; for a relay,
    when it ends.
    """
    while True:
        while not call.news:
            await call.wait(STALL_S)
        match call.news.popleft()[1]:
            case Failure() as failure:
                raise DeliveryFailed(failure)
            case JobStarted(prompt_tokens=counted) if counted:
                return counted
            case JobFinished(stats=stats):
                return stats.prompt_tokens


class DeliveryFailed(TwdError):
    """The jobs failed before anything was sent, so the client gets an error status."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code, failure.message, failure.field)
