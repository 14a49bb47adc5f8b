"""HTTP handlers of the generating APIs: each reads a request, opens a call and sends its answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from aiohttp import web

from twd.edge.answering import ApiAnswer, usage_of
from twd.edge.anthropic.answer import MessageAnswer
from twd.edge.anthropic.messages import counting_jobs, message_jobs
from twd.edge.anthropic.types import CountTokensRequest, MessagesRequest, TokenCount
from twd.edge.auth.job_owners import OwnedJobs
from twd.edge.auth.middleware import principal_of
from twd.edge.auth.rate_limits import UsageMeter
from twd.edge.core import RequestContext, ServerLimits, header_options, merge_options
from twd.edge.http.base_types import TwdOptions
from twd.edge.http.body import read_body
from twd.edge.http.replies import json_reply
from twd.edge.http.streaming import AnswerDelivery, prompt_tokens
from twd.edge.http.validation import read_request
from twd.edge.inflight_requests import InFlightRequest, RequestTracker
from twd.edge.models import ModelDirectory
from twd.edge.modes import Chosen, choose, full_name, house_mode, routed, split
from twd.edge.openai.chat import chat_jobs
from twd.edge.openai.chat_answer import ChatAnswer
from twd.edge.openai.completions import CompletionAnswer, completion_jobs
from twd.edge.openai.types import ChatRequest, CompletionRequest
from twd.edge.responses.answer import ResponseAnswer
from twd.edge.responses.input import response_jobs
from twd.edge.responses.types import ResponsesRequest
from twd.kit.clock import Clock
from twd.kit.ids import Ids
from twd.settings.model import Settings
from twd.wire.base import InstanceId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted

B = TypeVar("B", bound=msgspec.Struct)


@dataclass
class EdgeCounters:
    """The edge's counts for its status."""

    requests: int = 0
    refused: int = 0
    """Requests that were refused: the edge drains, its queue is full, or the key has reached a limit."""
    in_flight: int = 0


@dataclass
class RequestUsage:
    """What one request used."""

    tokens: int = 0


class GenerationHandlers:
    """Turns requests into jobs and sends their answers; the RequestTracker runs the jobs."""

    def __init__(
        self,
        settings: Settings,
        tracker: RequestTracker,
        models: ModelDirectory,
        clock: Clock,
        ids: Ids,
        instance: InstanceId,
        gate: Callable[[], None],
    ) -> None:
        self._gate = gate
        self.settings = settings
        self.tracker = tracker
        self.models = models
        self.clock = clock
        self.ids = ids
        self.instance = instance
        self.counters = EdgeCounters()
        self._in_progress = 0
        """The number of jobs and embeddings of accepted requests that have not ended."""
        self.meter = UsageMeter()
        self.owned = OwnedJobs()
        self.house = ServerLimits(settings.edge.max_tokens_limit, settings.edge.deadline_s, settings.mode)

    def routes(self) -> list[web.RouteDef]:
        """The routes of these handlers."""
        return [
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.completion),
            web.post("/v1/responses", self.responses),
            web.post("/v1/messages", self.messages),
            web.post("/v1/messages/count_tokens", self.count_tokens),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        asked = await self.read(request, ChatRequest)
        terms = self.terms(request, asked.model, asked.twd, asked.max_completion_tokens or asked.max_tokens)
        jobs = chat_jobs(asked, terms)
        return await self.deliver(request, jobs, ChatAnswer(asked, jobs, terms, self.now_s()), terms)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        asked = await self.read(request, CompletionRequest)
        terms = self.terms(request, asked.model, asked.twd, asked.max_tokens)
        jobs = completion_jobs(asked, terms)
        return await self.deliver(request, jobs, CompletionAnswer(asked, jobs, terms, self.now_s()), terms)

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/responses."""
        asked = await self.read(request, ResponsesRequest)
        terms = self.terms(request, asked.model, asked.twd, asked.max_output_tokens)
        jobs = response_jobs(asked, terms)
        return await self.deliver(request, jobs, ResponseAnswer(asked, jobs, terms, self.now_s), terms)

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/messages."""
        asked = await self.read(request, MessagesRequest)
        terms = self.terms(request, asked.model, asked.twd, asked.max_tokens)
        jobs = message_jobs(asked, terms)
        return await self.deliver(request, jobs, MessageAnswer(asked, jobs, terms), terms)

    async def count_tokens(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/messages/count_tokens: the model counts; its job is stopped before it generates."""
        asked = await self.read(request, CountTokensRequest)
        terms = self.terms(request, asked.model, TwdOptions(mode="speculate"))
        with self.opened(request, counting_jobs(asked, terms)) as call:
            return json_reply(TokenCount(input_tokens=await prompt_tokens(call)))

    # -- steps ---------------------------------------------------------------------------------

    async def read(self, request: web.Request, model: type[B]) -> B:
        """The request's body as a validated value of this type."""
        edge = self.settings.edge
        return read_request(model, await read_body(request, edge.max_body_size, edge.read_timeout_s))

    def terms(
        self, request: web.Request, model_name: str, options: TwdOptions | None, max_tokens: int | None = None
    ) -> RequestContext:
        """The context of this request: model, mode, options and limits."""
        name, named = ("", "") if model_name in self.models.known else split(model_name)
        base = self._base(request, name or model_name)
        wishes = merge_options(options, header_options(request.headers))
        mode = self._mode(request, base, wishes, named, max_tokens)
        return RequestContext(
            model=full_name(base, mode),
            base=base,
            chosen=mode,
            owner=self.instance,
            house=self.house,
            options=wishes,
            fresh_seed=self.ids.seed(),
            new_job=self.ids.job,
            created_ms=self.clock.wall_ms(),
            exact=self.models.exact(base),
            tool_format=self.models.tool_format(base),
        )

    def _base(self, request: web.Request, name: str) -> ModelId:
        """The model of this name. A key that is limited to some models is not told the names of others."""
        principal = principal_of(request)
        try:
            return self.models.resolve(name)
        except TwdError as error:
            principal.check_model(name)
            if principal.limited:
                raise TwdError(error.code, f"model {name[:100]!r} is not served now", "model") from None
            raise

    def _mode(self, request: web.Request, base: ModelId, wishes: TwdOptions, named: str, max_tokens: int | None) -> str:
        """The mode of a request. If the client did not ask for the mode by name, and it is not available, this key may
        not use it or the answer must be exact, the exact mode is used instead.
        """
        principal = principal_of(request)
        wish = wishes.mode or ("direct" if wishes.speculation == "off" and not named else None)
        route = routed(self.settings.gate.routes, principal.name, max_tokens)
        chosen = choose(wish, named, route, house_mode(self.house.mode))
        full = full_name(base, chosen.mode)
        able = self.models.serves(base, chosen.mode) and principal.may_use(full) and not wishes.exact
        if full != base and not chosen.asked and not able:
            chosen, full = Chosen("speculate"), base
        principal.check_model(full)
        if chosen.mode == "gate" and not self.models.serves(base, "gate"):
            raise TwdError(FailureCode.NOBODY_HOME, self.models.why_no_gate(base), "model")
        return chosen.mode

    async def deliver(
        self, request: web.Request, jobs: list[JobSubmitted], answer: ApiAnswer, terms: RequestContext
    ) -> web.StreamResponse:
        """Run the jobs and send their answer."""
        with self.opened(request, jobs, answer) as call:
            return await AnswerDelivery(request, call, answer, terms.mode, self.settings.edge.keepalive_s).run()

    @contextmanager
    def opened(
        self, request: web.Request, jobs: list[JobSubmitted], answer: ApiAnswer | None = None
    ) -> Iterator[InFlightRequest]:
        """Submit jobs and count them for their key. At the end, jobs that still run are cancelled, because the client
        left.
        """
        with self.counted(request, len(jobs)) as use:
            self.owned.note(principal_of(request).key, [job.job for job in jobs])
            call = self.tracker.open(jobs)
            try:
                yield call
            finally:
                self.tracker.close(call, "the client left")
                use.tokens = usage_of(answer.choices).total_tokens if answer else 0

    @contextmanager
    def counted(self, request: web.Request, jobs: int) -> Iterator[RequestUsage]:
        """Admit a request, and count what it uses of its key's limits; raises TwdError if it is refused."""
        key, use = principal_of(request).key, RequestUsage()
        try:
            self._gate()
            self._admit(jobs)
            self.meter.enter(key, jobs, self.clock.now(), self.clock.wall_ms())
        except TwdError:
            self.counters.refused += 1
            raise
        self._in_progress += jobs
        try:
            yield use
        finally:
            self._in_progress -= jobs
            self.meter.leave(key, jobs, use.tokens, self.clock.now(), self.clock.wall_ms())

    def _admit(self, jobs: int) -> None:
        limit = self.settings.edge.max_queue
        if self._in_progress + jobs > limit:
            text = f"{self._in_progress} jobs are in progress; at most {limit} are taken (edge.max_queue)"
            raise TwdError(FailureCode.BUSY, text)

    def now_s(self) -> int:
        """The time for OpenAI's `created`, in seconds."""
        return self.clock.wall_ms() // 1000
