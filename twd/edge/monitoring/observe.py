"""Read-only HTTP handlers: models, health, status."""

from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

import twd
from twd.bus.base import Bus
from twd.edge.auth.middleware import principal_of
from twd.edge.http.generation_handlers import GenerationHandlers
from twd.edge.http.openapi import document
from twd.edge.http.replies import json_reply
from twd.edge.monitoring.judges import gate_facts, gate_stats, votes
from twd.edge.monitoring.key_view import card_for, cards_for, status_for
from twd.edge.monitoring.status_types import EdgeState, HealthReply, ServiceState, SystemStatus
from twd.edge.openai.answers import ModelList
from twd.pools.transfers import TransfersView
from twd.pools.view import PoolsView
from twd.wire.leases.reading import shown_facts
from twd.wire.service import Health, ServiceLease


@dataclass
class StatusHandlers:
    """Shows the state of the edge and of other services."""

    front: GenerationHandlers
    bus: Bus
    node: str
    started_ms: int
    health: Callable[[], Health]
    may_see: Callable[[web.Request], bool]
    services: list[ServiceLease] = field(default_factory=list)
    pools: PoolsView = field(default_factory=PoolsView)
    transfers: TransfersView = field(default_factory=TransfersView)

    def routes(self) -> list[web.RouteDef]:
        """The routes of these handlers."""
        return [
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
            web.get("/v1/twd/status", self.status),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/openapi.json", self.openapi),
        ]

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models: the names that this key may use."""
        cards = cards_for(principal_of(request), self.front.models.listed().data)
        return json_reply(ModelList(data=cards, models=[{"name": card.id, "model": card.id} for card in cards]))

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{id}."""
        principal, name, models = principal_of(request), request.match_info["model"], self.front.models
        if principal.limited:
            return json_reply(card_for(principal, name, models.listed().data))
        return json_reply(models.card_of(name))

    async def healthz(self, request: web.Request) -> web.Response:
        """GET /healthz: whether this process works."""
        return json_reply(HealthReply(status=self.health().value))

    async def readyz(self, request: web.Request) -> web.Response:
        """GET /readyz: whether a request would be answered now."""
        reasons = self.not_ready()
        told = reasons if self.may_see(request) else []
        return json_reply(HealthReply(status="no" if reasons else "ready", reasons=told), 503 if reasons else 200)

    async def openapi(self, request: web.Request) -> web.Response:
        """GET /openapi.json."""
        return json_reply(document())

    def not_ready(self) -> list[str]:
        """Why requests would not be answered now; empty if they would."""
        reasons = []
        if self.health() in (Health.STARTING, Health.DRAINING):
            reasons.append(f"the edge is {self.health().value}")
        if not self.bus.connected:
            reasons.append("the message bus is away")
        default = self.front.models.default_model
        if not default:
            reasons.append("no model is configured and none is loaded")
        elif default not in self.front.models.live:
            reasons.append(self.front.models.why_nobody(self.front.models.resolve(default)))
        return reasons

    async def status(self, request: web.Request) -> web.Response:
        """GET /v1/twd/status."""
        directory, settings = self.front.models, self.front.settings
        gate, (agreed, fallback) = gate_facts(self.services), votes(self.services)
        status = SystemStatus(
            mode=settings.mode,
            stats=gate_stats(self.services),
            agents=gate.agents,
            verifier=gate.verifier,
            consensus_mode=settings.consensus.policy,
            consensus_accepted=agreed,
            consensus_fallback=fallback,
            wins=gate.wins,
            edge=self._edge(),
            default_model=directory.default_model,
            models=directory.cards(),
            services=[self._service(lease) for lease in self.services],
            pools=self.pools.states(self.front.clock.now()),
            transfers=self.transfers.states(self.front.clock.now()),
            warnings=self.not_ready(),
        )
        return json_reply(status_for(principal_of(request), status))

    def _edge(self) -> EdgeState:
        front, stats = self.front, self.bus.stats
        return EdgeState(
            instance=front.instance,
            node=self.node,
            version=twd.__version__,
            health=self.health().value,
            uptime_s=round((front.clock.wall_ms() - self.started_ms) / 1000, 1),
            jobs=len(front.tracker),
            in_flight=front.counters.in_flight,
            max_queue=front.settings.edge.max_queue,
            requests=front.counters.requests,
            refused=front.counters.refused,
            bus_connected=self.bus.connected,
            bus_reconnects=stats.reconnects,
            bus_dropped=stats.dropped,
        )

    def _service(self, lease: ServiceLease) -> ServiceState:
        return ServiceState(
            service=lease.service,
            instance=lease.instance,
            node=lease.node,
            pid=lease.pid,
            version=lease.version,
            health=lease.health.value,
            note="; ".join(filter(None, (lease.note, lease.unread))),
            age_s=round((self.front.clock.wall_ms() - lease.renewed_ms) / 1000, 1),
            facts=shown_facts(lease.facts),
        )
