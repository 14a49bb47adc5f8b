"""The edge as a service: an HTTP server in front of the bus."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from twd.bus.base import BusError, Leases, NoResponders
from twd.edge.auth.access_policy import AccessPolicy, check_bind
from twd.edge.auth.keys import KeyRing, KeyStore
from twd.edge.auth.middleware import AuthMiddleware
from twd.edge.http.errors import unasked
from twd.edge.http.generation_handlers import GenerationHandlers
from twd.edge.http.handover import HandedDoor
from twd.edge.http.pages import Pages
from twd.edge.http.server import HttpServer
from twd.edge.inflight_requests import RequestTracker
from twd.edge.models import ModelDirectory
from twd.edge.monitoring.feed import EventFeed
from twd.edge.monitoring.history import HistoryHandlers
from twd.edge.monitoring.observe import StatusHandlers
from twd.edge.openai.embeddings import EmbeddingHandlers
from twd.kit.jobs.owning_service import OF_JOBS, OF_WORKERS, JobEvent, OwningService
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, ServiceContext
from twd.kit.tasks import every
from twd.net.addresses import is_loopback
from twd.settings.model import Settings
from twd.wire.base import Event, InstanceId, ModelId
from twd.wire.codec import Rejected
from twd.wire.embedding import EmbeddingRequested
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import JobCancelled, JobFailed, JobQueued, JobSubmitted, TokensAccepted
from twd.wire.judging import GATE
from twd.wire.leases.others import EdgeFacts
from twd.wire.life import ChangeStep, ChangeTold
from twd.wire.model import ModelFailed, ModelLoading, ModelMeasured, ModelReady, ModelUnloaded
from twd.wire.ring import FrameRefused, RingMeasured
from twd.wire.service import Health, ServiceStarted, read_lease
from twd.wire.swarm import PullFailed, PullFinished, PullProgressed
from twd.wire.trace import HistoryRequested, MetricsRequested, TraceRequested

REFRESH_S = 2.0
READY_LOOK_S = 0.1
MODE_SERVICES = ("gate", "racer")
"""Services that bring a mode of answering; the edge knows of them from their leases only."""
WAITED_S = 60.0
"""How long those wait at most who came while versions changed, until they are told what is missing."""


class EdgeService(OwningService):
    """Clients meet twd here: OpenAI's APIs over HTTP, jobs over the bus."""

    name = "edge"
    reads = (
        *OF_JOBS,
        ModelLoading,
        ModelReady,
        ModelMeasured,
        ModelFailed,
        ModelUnloaded,
        *OF_WORKERS,
        ChangeTold,
        RingMeasured,
        FrameRefused,
        PullProgressed,
        PullFinished,
        PullFailed,
    )
    writes = (JobSubmitted, JobCancelled, EmbeddingRequested, TraceRequested, HistoryRequested, MetricsRequested)

    def __init__(self, ctx: ServiceContext, settings: Settings, run: Path | None = None) -> None:
        """`run`: the folder in which the port is handed over to the edge that takes this one's place."""
        super().__init__(ctx)
        self.settings = settings
        self.models = ModelDirectory(tuple(settings.served()), settings.default_model, ctx.node)
        self.tracker = RequestTracker(self.clock, self.submit_job, self.emit, self._guarded, coming=self.models.coming)
        self.front = GenerationHandlers(
            settings, self.tracker, self.models, self.clock, ctx.ids, self.instance, self._gate
        )
        self.keys = KeyStore(settings.home_dir)
        self.threshold = self._build_door()
        self.watch = StatusHandlers(
            self.front, self.bus, ctx.node, self.clock.wall_ms(), lambda: self.health, self.threshold.is_known
        )
        self.records = HistoryHandlers(
            EventFeed(self.bus), self.front.owned, self.ask, settings.edge.keepalive_s, settings.log.show_text
        )
        handover = HandedDoor(run, self.log) if run is not None else None
        self.server = HttpServer(settings.edge, self.threshold, self.front.counters, self.log, handover)
        self._registry: Leases | None = None

    def _build_door(self) -> AuthMiddleware:
        edge = self.settings.edge
        ring = KeyRing(self.keys.load(), edge.token)
        check_bind(edge.host, ring, edge.allow_unauthenticated)
        own = frozenset({edge.host, self.ctx.node, *edge.allowed_hosts})
        origins = tuple(origin.lower() for origin in edge.cors_origins)
        door = AccessPolicy(ring, not (is_loopback(edge.host) or edge.allow_unauthenticated), own, origins)
        return AuthMiddleware(door, self.clock.now, self.ctx.ids.secret, bool(edge.tls.cert))

    # -- life ----------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Open the registry and the HTTP port."""
        self._registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        await self._refresh()
        embeddings = EmbeddingHandlers(self.front, lambda event, timeout_s: self.ask(event, timeout_s=timeout_s))
        parts = (self.front, embeddings, self.watch, self.records, self.threshold, Pages())
        await self.server.open([route for part in parts for route in part.routes()])
        self.tasks.start("registry", every(REFRESH_S, self._refresh))
        if self.server.waits:
            self.tasks.start("door", self._begin_when_ready())

    async def _begin_when_ready(self) -> None:
        """Let those wait who came while versions changed, until a question can be answered; not forever."""
        give_up = self.clock.now() + WAITED_S
        while True:
            if self._can_answer() or self.clock.now() >= give_up:
                return await self.server.begin()
            await asyncio.sleep(READY_LOOK_S)

    def _can_answer(self) -> bool:
        wanted = self.models.default_model
        return self.health is Health.OK and (not wanted or self.models.resolve(wanted) in self.models.live)

    def _gate(self) -> None:
        """Refuse generation while the edge starts or drains."""
        if self.health is Health.DRAINING:
            raise TwdError(FailureCode.DRAINING, "this edge finishes its streams and takes no new requests")
        if self.health is Health.STARTING:
            raise TwdError(FailureCode.NOBODY_HOME, "the edge is starting")

    async def quiesce(self) -> None:
        """Finish the open streams; new requests get a 503, or wait for the edge that has the port now."""
        self.records.feed.close()
        await self.server.hand_over()
        await self.server.quiet()

    async def teardown(self) -> None:
        """End open requests with an error that gives the reason, then close the port."""
        self.records.feed.close()
        self.tracker.fail_all(Failure(code=FailureCode.DRAINING, message="this edge is stopping"))
        await self.server.close()

    @property
    def url(self) -> str:
        """The URL for clients on this machine."""
        return self.server.url

    def facts(self) -> EdgeFacts:
        """The facts in its lease."""
        return EdgeFacts(url=self.url, port=self.server.port, jobs=len(self.tracker))

    # -- jobs ----------------------------------------------------------------------------------

    def submit_job(self, job: JobSubmitted, timeout_s: float) -> None:
        """Send a job to its model; after a gate was lost or refused, the model itself continues, exactly."""
        super().submit_job(_exactly(job) if job.attempt > 1 else job, timeout_s)

    def job_answered(self, answer: JobQueued | JobFailed) -> None:
        """A job was taken or refused."""
        self.tracker.answered(answer)

    def job_unanswered(self, job: JobSubmitted, failure: Failure) -> None:
        """Nobody took a job."""
        self.tracker.unanswered(job, failure)

    def why_unanswered(self, job: JobSubmitted, answer: Event | Rejected | BusError) -> Failure:
        """Why nobody took a job."""
        if isinstance(answer, NoResponders):
            return Failure(code=FailureCode.NOBODY_HOME, message=self.models.why_nobody(job.model), field="model")
        if isinstance(answer, BusError):
            return unasked(job.model, answer)
        reason = answer.reason if isinstance(answer, Rejected) else type(answer).__name__
        text = f"the answer to a job makes no sense: {reason}"
        return Failure(code=FailureCode.WORKER_LOST, message=text[:4096])

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - the edge: told to the bus and fatal
            self.fail(error, "timer")

    def job_event(self, event: JobEvent) -> None:
        """A job has started, got more text or ended."""
        if isinstance(event, TokensAccepted) and event.source in self.watch.pools.speculators:
            self.watch.pools.hear(event, self.clock.now())
        self.tracker.hear(event)

    # -- pools, models and services -------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Read the key file and the registry: which services run, with which models."""
        self._reload_keys()  # first, so that revoked keys are refused even without the bus
        if self._registry is None:
            return
        try:
            entries = await self._registry.entries()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        self.watch.services = [lease for entry in entries if (lease := read_lease(entry.value, entry.key)) is not None]
        self.workers_seen(self.watch.services)
        self.watch.pools.look(entries)
        self.models.see_leases(self.watch.services, self.clock.now())

    def on_service_started(self, event: ServiceStarted) -> Effects:
        """A process started. A gate or a racer can be used at once, so the registry is read now."""
        if event.service in MODE_SERVICES:
            self.tasks.start("registry again", self._refresh())
        return super().on_service_started(event)

    def _reload_keys(self) -> None:
        """Use keys that were added and drop keys that were revoked; a broken file changes nothing."""
        if not self.keys.changed():
            return
        try:
            self.threshold.door.ring.keys = self.keys.load()
        except TwdError as error:
            self.log.warning("%s", error)

    def on_ring_measured(self, event: RingMeasured) -> Effects:
        """A stage of a ring sent its figures."""
        self.watch.pools.hear(event, self.clock.now())
        return None

    def on_frame_refused(self, event: FrameRefused) -> Effects:
        """A stage got invalid data on a link of its ring."""
        self.watch.pools.hear(event, self.clock.now())
        return None

    def on_pull_progressed(self, event: PullProgressed) -> Effects:
        """A machine fetches a model."""
        self.watch.transfers.hear(event, self.clock.now())
        return None

    def on_pull_finished(self, event: PullFinished) -> Effects:
        """It has come."""
        self.watch.transfers.hear(event, self.clock.now())
        return None

    def on_pull_failed(self, event: PullFailed) -> Effects:
        """It did not come."""
        self.watch.transfers.hear(event, self.clock.now())
        return None

    def on_model_loading(self, event: ModelLoading) -> Effects:
        """A model is being loaded."""
        self.models.loading(event)
        return None

    def on_model_ready(self, event: ModelReady) -> Effects:
        """A model is ready."""
        self.models.ready(event, self.clock.now())
        self.tracker.came(event.facts.model)
        return None

    def on_model_measured(self, event: ModelMeasured) -> Effects:
        """The self-test of a model is done."""
        self.models.measured(event)
        return None

    def on_model_failed(self, event: ModelFailed) -> Effects:
        """A model has failed."""
        self.models.failed(event)
        return None

    def on_model_unloaded(self, event: ModelUnloaded) -> Effects:
        """A model was unloaded."""
        self.models.unloaded(event)
        return None

    def on_change_told(self, event: ChangeTold) -> Effects:
        """This machine changes to other models."""
        if event.node == self.ctx.node:
            self.models.told(event.models, event.default, event.at_ms)
            self.models.changing = event.step not in (ChangeStep.DONE, ChangeStep.FAILED)
        return None

    def bus_back(self) -> None:
        """The bus is back after a loss."""
        self.tracker.bus_back()

    def worker_gone(self, instance: InstanceId) -> None:
        """A process has ended."""
        self.models.gone(instance)
        self.tracker.gone(instance)


def _exactly(job: JobSubmitted) -> JobSubmitted:
    return replace(job, model=ModelId(job.model.removesuffix(GATE)))
