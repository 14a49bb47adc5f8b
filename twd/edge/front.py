"""The HTTP handlers of the generating APIs: each reads a request, opens a call, delivers its answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from aiohttp import web

from twd.edge.answering import Answer, usage_of
from twd.edge.base_types import TwdOptions
from twd.edge.body import read_body
from twd.edge.calls import Desk
from twd.edge.chat_answer import ChatAnswer
from twd.edge.core import House, Terms, header_options, merge_options
from twd.edge.generate import Delivery
from twd.edge.meter import Meter
from twd.edge.models import ModelDirectory
from twd.edge.openai_chat import chat_jobs
from twd.edge.openai_completions import CompletionAnswer, completion_jobs
from twd.edge.openai_types import ChatRequest, CompletionRequest
from twd.edge.threshold import visitor_of
from twd.edge.validation import read_request
from twd.kit.clock import Clock
from twd.kit.ids import Ids
from twd.kit.settings import Settings
from twd.wire.base import InstanceId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted

B = TypeVar("B", bound=msgspec.Struct)


@dataclass
class Counters:
    """What the edge counts for its status."""

    requests: int = 0
    refused: int = 0
    in_flight: int = 0


class Front:
    """Requests in, answers out; what runs in between is the desk's."""

    def __init__(
        self,
        settings: Settings,
        desk: Desk,
        models: ModelDirectory,
        clock: Clock,
        ids: Ids,
        instance: InstanceId,
        gate: Callable[[], None],
    ) -> None:
        self._gate = gate
        self.settings = settings
        self.desk = desk
        self.models = models
        self.clock = clock
        self.ids = ids
        self.instance = instance
        self.counters = Counters()
        self.meter = Meter()
        self.house = House(settings.edge.max_tokens_limit, settings.edge.deadline_s, settings.mode)

    def routes(self) -> list[web.RouteDef]:
        """The paths that it answers."""
        return [
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.completion),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        asked = await self.read(request, ChatRequest)
        terms = self.terms(request, asked.model, asked.twd)
        jobs = chat_jobs(asked, terms)
        return await self.deliver(request, jobs, ChatAnswer(asked, jobs, terms, self.now_s()), terms)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        asked = await self.read(request, CompletionRequest)
        terms = self.terms(request, asked.model, asked.twd)
        jobs = completion_jobs(asked, terms)
        return await self.deliver(request, jobs, CompletionAnswer(asked, jobs, terms, self.now_s()), terms)

    # -- steps ---------------------------------------------------------------------------------

    async def read(self, request: web.Request, model: type[B]) -> B:
        """The request's body as a checked model."""
        edge = self.settings.edge
        return read_request(model, await read_body(request, edge.max_body_size, edge.read_timeout_s))

    def terms(self, request: web.Request, model_name: str, options: TwdOptions | None) -> Terms:
        """What this request gets from the house."""
        model = self.models.resolve(model_name)
        visitor_of(request).check_model(model)
        return Terms(
            model=model,
            owner=self.instance,
            house=self.house,
            options=merge_options(options, header_options(request.headers)),
            fresh_seed=self.ids.seed(),
            new_job=self.ids.job,
            exact=self.models.exact(model),
            tool_format=self.models.tool_format(model),
        )

    async def deliver(
        self, request: web.Request, jobs: list[JobSubmitted], answer: Answer, terms: Terms
    ) -> web.StreamResponse:
        """Run the jobs and send what they tell; a client that leaves cancels them."""
        self._gate()
        self._admit(len(jobs))
        key = visitor_of(request).key
        self.meter.enter(key, len(jobs), self.clock.now(), self.clock.wall_ms())
        call = self.desk.open(jobs)
        try:
            return await Delivery(request, call, answer, terms.mode, self.settings.edge.keepalive_s).run()
        finally:
            self.desk.close(call, "the client left")
            used = usage_of(answer.choices).total_tokens
            self.meter.leave(key, len(jobs), used, self.clock.now(), self.clock.wall_ms())

    def _admit(self, jobs: int) -> None:
        limit = self.settings.edge.max_queue
        if len(self.desk) + jobs > limit:
            text = f"{len(self.desk)} jobs are in progress; at most {limit} are taken (edge.max_queue)"
            raise TwdError(FailureCode.BUSY, text)

    def now_s(self) -> int:
        """The time as OpenAI's `created`."""
        return self.clock.wall_ms() // 1000
