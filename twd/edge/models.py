"""The models and their states (configured, loading, ready), and which model a name means. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from twd.chat.tool_calls.formats import ToolFormat
from twd.edge.modes import SUFFIXES, full_name, split
from twd.edge.openai.answers import ModelCard, ModelList
from twd.settings.model import DEFAULT_NAMES
from twd.wire.base import InstanceId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.base import ServerFacts
from twd.wire.leases.gate import GateFacts
from twd.wire.leases.machine import SupervisorFacts
from twd.wire.leases.reading import shown_facts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.model import ModelFailed, ModelLoading, ModelMeasured, ModelReady, ModelUnloaded
from twd.wire.service import Health, ServiceLease

NO_RACER = "no racer counts the votes of drafters: `twd run racer`, or consensus.policy in the settings"
SETTLE_S = 15.0
"""A server known only from an event is removed if it has no lease after this many seconds."""
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
"""The facts on a model's card; the status shows the rest of the lease."""


@dataclass
class _Server:
    """One process that serves a model."""

    model: ModelId
    facts: Facts
    heard: float
    since_ms: int


@dataclass
class ModelDirectory:
    """What the edge knows about models, from settings, events and leases."""

    configured: tuple[str, ...] = ()
    default: str = ""
    node: str = ""
    """This machine. Its supervisor may be told to serve other models than the settings name."""
    changing: bool = False
    """Whether this machine is changing to other models."""
    _told_ms: int = 0
    _retired: set[str] = field(default_factory=set)
    """Models that this machine no longer serves; no request waits for them."""
    _servers: dict[InstanceId, _Server] = field(default_factory=dict)
    _exact: dict[ModelId, bool] = field(default_factory=dict)
    _notes: dict[ModelId, str] = field(default_factory=dict)
    _gates: frozenset[str] = frozenset()
    """Models that a gate judges with."""
    _racers: bool = False

    # -- events --------------------------------------------------------------------------------

    def ready(self, event: ModelReady, now: float) -> None:
        """A process serves a model now."""
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
        """A model is being loaded."""
        self._note(event.model, f"is loading ({event.progress:.0%})")

    def failed(self, event: ModelFailed) -> None:
        """A model could not be loaded or was lost."""
        self.gone(event.source)
        self._note(event.model, f"failed on {event.node}: {event.failure.message[:200]}")

    def unloaded(self, event: ModelUnloaded) -> None:
        """A process does not serve its model any more."""
        self.gone(event.source)

    def measured(self, event: ModelMeasured) -> None:
        """It was measured whether a model is exact."""
        self._exact[event.model] = event.exactness.exact

    def told(self, models: Iterable[str], default: str, at_ms: int) -> None:
        """This machine serves these models since `at_ms`; other ones are not expected any more."""
        if at_ms < self._told_ms:
            return  # a lease shows the state of its last renewal, which may be older
        before, self._told_ms = set(self.configured), at_ms
        self.configured, self.default = tuple(models), default
        self._retired = (self._retired | before) - set(self.configured)
        for name in self._retired:
            self._notes.pop(ModelId(name), None)

    def gone(self, instance: InstanceId) -> None:
        """A process has ended; another one may serve its model later."""
        server = self._servers.pop(instance, None)
        if server is not None and server.model not in self.live:
            self._note(server.model, "is served by no process now")

    def see_leases(self, leases: Iterable[ServiceLease], now: float) -> None:
        """Compare with the registry: add processes that started before this edge, remove those without a lease."""
        alive: set[InstanceId] = set()
        gates: set[str] = set()
        racers = False
        for lease in leases:
            alive.add(lease.instance)
            gates |= _gates_of(lease)
            racers = racers or lease.service == "racer"
            if lease.service == "supervisor" and lease.node == self.node:
                self._supervised(lease)
            told = lease.told(ServerFacts)
            if told is not None and told.model and not told.model.endswith("@gate"):
                self._lease(lease, told, now)
        for instance, server in list(self._servers.items()):
            if instance not in alive and now - server.heard > SETTLE_S:
                del self._servers[instance]
        self._gates, self._racers = frozenset(gates), racers

    def _supervised(self, lease: ServiceLease) -> None:
        told = lease.told(SupervisorFacts)
        if told is not None and told.models is not None:
            self.told(told.models, told.default_model, lease.renewed_ms)

    def _lease(self, lease: ServiceLease, facts: ServerFacts, now: float) -> None:
        model = facts.model
        if not facts.ready:
            self._servers.pop(lease.instance, None)
            coming = lease.health in (Health.STARTING, Health.OK)
            state = "is loading" if coming else f"is {lease.health.value} on {lease.node}"
            self._note(model, state)
            return
        self._notes.pop(model, None)
        told = _on_card(facts)
        if isinstance(facts, SpeculatorFacts) and facts.exact is not None:
            self._exact[model] = facts.exact
        known = self._servers.get(lease.instance)
        if known is not None and known.model == model:
            known.facts.update(told)
            known.heard = now
        else:
            self._servers[lease.instance] = _Server(model, told, now, lease.started_ms)

    def _note(self, model: ModelId, state: str) -> None:
        """Remember why a model is not available; the oldest notes are removed."""
        self._notes.pop(model, None)
        if model in self._retired:
            return
        if len(self._notes) >= NOTES_MAX:
            self._notes.pop(next(iter(self._notes)))
        self._notes[model] = state

    # -- questions -----------------------------------------------------------------------------

    @property
    def live(self) -> list[ModelId]:
        """Models that are served now."""
        return sorted({server.model for server in self._servers.values()})

    @property
    def known(self) -> list[str]:
        """Every model that a request may name, the configured ones first; some may be loading or lost."""
        return list(dict.fromkeys([*self.configured, *self.live, *self._notes]))

    @property
    def default_model(self) -> str:
        """The model that `default` means."""
        return self.default or next(iter(self.known), "")

    def coming(self, model: ModelId) -> bool:
        """Whether a model that is not served now will be served soon, so that a job should wait."""
        return self.changing and model in self.configured and model not in self.live

    def serves(self, model: ModelId, mode: str) -> bool:
        """Whether a model can be used in a mode that may change the text."""
        return model in self._gates if mode == "gate" else self._racers

    def why_no_gate(self, model: ModelId) -> str:
        """The error text if no gate judges with a model."""
        if self._gates:
            return f"no gate judges by {model!r}; it can judge by {', '.join(sorted(self._gates))}"
        return "no gate runs: name who writes under gate.fleet or gate.agents, then `twd gate start` or `twd up`"

    def exact(self, model: ModelId) -> bool | None:
        """Whether the model was measured to be exact; None if it was not measured."""
        return self._exact.get(model)

    def tool_format(self, model: ModelId) -> ToolFormat:
        """The format in which the model writes tool calls, if its process reports it."""
        told = [server.facts.get("tool_format") for server in self._servers.values() if server.model == model]
        known = [ToolFormat(name) for name in told if name in set(ToolFormat)]
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

    def full(self, name: str) -> ModelId:
        """Like `resolve`, with the mode of the name; raises if the mode is not available."""
        base, mode = ("", "") if name in self.known else split(name)
        model = self.resolve(base or name)
        if mode and not self.serves(model, mode):
            raise TwdError(
                FailureCode.MODEL_NOT_FOUND, self.why_no_gate(model) if mode == "gate" else NO_RACER, "model"
            )
        return full_name(model, mode)

    def why_nobody(self, model: ModelId) -> str:
        """The error text if no worker takes a job of this model."""
        return f"model {model!r} {self._notes.get(model, 'is served by no process now')}"

    def card(self, name: str) -> ModelCard:
        """One model as /v1/models shows it."""
        base, mode = split(name)
        if mode and name not in self.known:
            return self._mode_card(self.card(base), mode)
        servers = [server for server in self._servers.values() if server.model == name]
        facts: Facts = {}
        for server in servers:
            facts |= server.facts
        facts["ready"] = bool(servers)
        facts["replicas"] = len(servers)
        facts["default"] = name == self.default_model
        if not servers and ModelId(name) in self._notes:
            facts["note"] = self._notes[ModelId(name)]
        created = min((server.since_ms for server in servers), default=0) // 1000
        return ModelCard(id=name, created=created, twd=facts)

    def cards(self) -> list[ModelCard]:
        """The cards of all models, without other names."""
        return [self.card(name) for name in self.known]

    def listed(self) -> ModelList:
        """Every name that requests may use: the models, their modes, then the other names of the default model."""
        cards = self.cards()
        cards += [self._mode_card(card, mode) for card in cards for mode in SUFFIXES if self._shows(card.id, mode)]
        for alias in DEFAULT_NAMES:
            if self.default_model and alias not in self.known:
                cards.append(self.card_of(alias))
        return ModelList(data=cards, models=[{"name": card.id, "model": card.id} for card in cards])

    def card_of(self, name: str) -> ModelCard:
        """The card of the model that a name means, under that name."""
        model = self.full(name)
        card = self.card(model)
        if name != model:
            card.id, card.twd["alias_of"] = name, model
        return card

    def _shows(self, name: str, mode: str) -> bool:
        return self.serves(ModelId(name), mode) and name in self.live

    def _mode_card(self, card: ModelCard, mode: str) -> ModelCard:
        """The card of a model in a mode that may change the text."""
        facts = {**card.twd, "mode": mode, "default": False, "approximate": True}
        return ModelCard(id=full_name(ModelId(card.id), mode), created=card.created, twd=facts)


def _on_card(facts: ServerFacts) -> Facts:
    """What a model's card shows of its process; what that does not know is left out."""
    return {name: value for name, value in shown_facts(facts).items() if name in SHOWN and (value or value is False)}


def _gates_of(lease: ServiceLease) -> set[str]:
    told = lease.told(GateFacts)
    return set(told.gates) if told is not None else set()
