"""Which models there are: configured, loading, ready; and what a name means. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from twd.chat.tool_calls.formats import ToolFormat
from twd.edge.openai.answers import ModelCard, ModelList
from twd.settings.model import DEFAULT_NAMES
from twd.wire.base import InstanceId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import ModelFailed, ModelLoading, ModelMeasured, ModelReady, ModelUnloaded
from twd.wire.service import Health, ServiceLease

HELPERS = frozenset({"drafter", "stage"})
"""Services that know a model, but answer nobody for it."""
SETTLE_S = 15.0
"""A model told by an event counts for so long before its process must have a lease."""
NOTES_MAX = 256

Facts = dict[str, Any]
SHOWN = frozenset(
    (
        "architecture",
        "backend",
        "ctx_size",
        "exact",
        "file",
        "fingerprint",
        "parallel",
        "parameters",
        "quantization",
        "tool_format",
    )
)
"""What a model's card tells of it; the rest of a lease is in the status."""


@dataclass
class _Server:
    """One process that serves a model."""

    model: ModelId
    facts: Facts
    heard: float
    since_ms: int


@dataclass
class ModelDirectory:
    """What the edge knows of models, from the settings, from events and from leases."""

    configured: tuple[str, ...] = ()
    default: str = ""
    node: str = ""
    """This machine, whose supervisor may be told to serve other models than the settings name."""
    changing: bool = False
    """This machine is on its way to serve other models."""
    _told_ms: int = 0
    _retired: set[str] = field(default_factory=set)
    """Models that this machine was told to serve no longer: nobody waits for them."""
    _servers: dict[InstanceId, _Server] = field(default_factory=dict)
    _exact: dict[ModelId, bool] = field(default_factory=dict)
    _notes: dict[ModelId, str] = field(default_factory=dict)

    # -- what happens --------------------------------------------------------------------------

    def ready(self, event: ModelReady, now: float) -> None:
        """A process says that it serves a model."""
        facts = event.facts
        told = {
            "ctx_size": facts.ctx_size,
            "quantization": facts.quantization,
            "parameters": facts.parameters,
            "architecture": facts.architecture,
            "backend": facts.backend,
            "parallel": facts.parallel,
            "tool_format": facts.tool_format,
        }
        self._servers[event.source] = _Server(facts.model, told, now, event.at_ms)
        self._notes.pop(facts.model, None)

    def loading(self, event: ModelLoading) -> None:
        """A model is on its way."""
        self._note(event.model, f"is loading ({event.progress:.0%})")

    def failed(self, event: ModelFailed) -> None:
        """A model could not be loaded or was lost."""
        self.gone(event.source)
        self._note(event.model, f"failed on {event.node}: {event.failure.message[:200]}")

    def unloaded(self, event: ModelUnloaded) -> None:
        """A process serves its model no more."""
        self.gone(event.source)

    def measured(self, event: ModelMeasured) -> None:
        """Whether a model is exact is known now."""
        self._exact[event.model] = event.exactness.exact

    def told(self, models: Iterable[str], default: str, at_ms: int) -> None:
        """This machine serves these models since then; others are no longer to be expected."""
        if at_ms < self._told_ms:
            return  # a lease is read as it was at its last renewal
        before, self._told_ms = set(self.configured), at_ms
        self.configured, self.default = tuple(models), default
        self._retired = (self._retired | before) - set(self.configured)
        for name in self._retired:
            self._notes.pop(ModelId(name), None)

    def gone(self, instance: InstanceId) -> None:
        """A process ended; its model may come back with the next one."""
        server = self._servers.pop(instance, None)
        if server is not None and server.model not in self.live:
            self._note(server.model, "is served by no process now")

    def see_leases(self, leases: Iterable[ServiceLease], now: float) -> None:
        """Compare with the registry: processes that started before us appear, dead ones vanish."""
        alive: set[InstanceId] = set()
        for lease in leases:
            alive.add(lease.instance)
            if lease.service == "supervisor" and lease.node == self.node:
                self._supervised(lease)
            model = lease.facts.get("model")
            if isinstance(model, str) and model and lease.service not in HELPERS:
                self._lease(lease, ModelId(model), now)
        for instance, server in list(self._servers.items()):
            if instance not in alive and now - server.heard > SETTLE_S:
                del self._servers[instance]

    def _supervised(self, lease: ServiceLease) -> None:
        models, default = lease.facts.get("models"), lease.facts.get("default_model")
        if isinstance(models, list) and isinstance(default, str):
            self.told(models, default, lease.renewed_ms)

    def _lease(self, lease: ServiceLease, model: ModelId, now: float) -> None:
        if lease.facts.get("ready") is False:
            self._servers.pop(lease.instance, None)
            coming = lease.health in (Health.STARTING, Health.OK)
            state = "is loading" if coming else f"is {lease.health.value} on {lease.node}"
            self._note(model, state)
            return
        self._notes.pop(model, None)
        told = {name: value for name, value in lease.facts.items() if name != "model"}
        exact = told.get("exact")
        if isinstance(exact, bool):
            self._exact[model] = exact
        known = self._servers.get(lease.instance)
        if known is not None and known.model == model:
            known.facts.update(told)
            known.heard = now
        else:
            self._servers[lease.instance] = _Server(model, told, now, lease.started_ms)

    def _note(self, model: ModelId, state: str) -> None:
        """Why a model is not there; the oldest notes give way."""
        self._notes.pop(model, None)
        if model in self._retired:
            return
        if len(self._notes) >= NOTES_MAX:
            self._notes.pop(next(iter(self._notes)))
        self._notes[model] = state

    # -- questions -----------------------------------------------------------------------------

    @property
    def live(self) -> list[ModelId]:
        """Models that somebody serves now."""
        return sorted({server.model for server in self._servers.values()})

    @property
    def known(self) -> list[str]:
        """Every model that may be asked for, the configured ones first; some may be loading or lost."""
        return list(dict.fromkeys([*self.configured, *self.live, *self._notes]))

    @property
    def default_model(self) -> str:
        """The name behind `default`."""
        return self.default or next(iter(self.known), "")

    def coming(self, model: ModelId) -> bool:
        """Whether a model that nobody serves now is about to be served: it is worth waiting for."""
        return self.changing and model in self.configured and model not in self.live

    def exact(self, model: ModelId) -> bool | None:
        """Whether the model was measured to be exact; None before that."""
        return self._exact.get(model)

    def tool_format(self, model: ModelId) -> ToolFormat:
        """How the model writes calls, if its process says so."""
        told = [server.facts.get("tool_format") for server in self._servers.values() if server.model == model]
        known = [ToolFormat(name) for name in told if isinstance(name, str) and name in set(ToolFormat)]
        return known[0] if known else ToolFormat.BARE

    def resolve(self, name: str) -> ModelId:
        """The model that a client's name means."""
        if name in self.known:
            return ModelId(name)
        if name in DEFAULT_NAMES:
            if self.default_model:
                return ModelId(self.default_model)
            raise TwdError(FailureCode.NOBODY_HOME, "no model is configured and none is loaded", "model")
        listed = ", ".join(self.known[:20]) or "none"
        text = f"model {name[:100]!r} does not exist; known: {listed}, and `default` for {self.default_model or 'none'}"
        raise TwdError(FailureCode.MODEL_NOT_FOUND, text, "model")

    def why_nobody(self, model: ModelId) -> str:
        """What to tell when nobody takes a job of this model."""
        return f"model {model!r} {self._notes.get(model, 'is served by no process now')}"

    def card(self, name: str) -> ModelCard:
        """One model as /v1/models shows it."""
        servers = [server for server in self._servers.values() if server.model == name]
        facts: Facts = {}
        for server in servers:
            facts |= {name: value for name, value in server.facts.items() if name in SHOWN}
        facts["ready"] = bool(servers)
        facts["replicas"] = len(servers)
        facts["default"] = name == self.default_model
        if not servers and ModelId(name) in self._notes:
            facts["note"] = self._notes[ModelId(name)]
        created = min((server.since_ms for server in servers), default=0) // 1000
        return ModelCard(id=name, created=created, twd=facts)

    def cards(self) -> list[ModelCard]:
        """All models, each by its own name."""
        return [self.card(name) for name in self.known]

    def listed(self) -> ModelList:
        """Every name that requests may use: those of the models, then the other names of the default one."""
        cards = self.cards()
        for alias in DEFAULT_NAMES:
            if self.default_model and alias not in self.known:
                cards.append(self.card_of(alias))
        return ModelList(data=cards, models=[{"name": card.id, "model": card.id} for card in cards])

    def card_of(self, name: str) -> ModelCard:
        """The card of what a client's name means, under that name."""
        model = self.resolve(name)
        card = self.card(model)
        if name != model:
            card.id, card.twd["alias_of"] = name, model
        return card
