"""The coordinator service. Of several coordinators, the one that holds the lease acts and the others stand by. In each
turn it reads the registry and carries out the next actions of the plan."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Final

import msgspec

from twd.bus.base import BusError, LeaseEntry, Leases, NoResponders
from twd.coordinator.agentless_watch import AgentlessWatch
from twd.coordinator.core.fetching import pull_name, remarks
from twd.coordinator.core.machines.agentless_hosts import WorkerKey, claims, losses
from twd.coordinator.core.machines.computers import counted_once, told_once
from twd.coordinator.core.memory_ledger import promised
from twd.coordinator.core.model_placement import in_words
from twd.coordinator.core.observation import SETTLE_S, JoinTimes, take_in
from twd.coordinator.core.plan import moved, plan
from twd.coordinator.core.process_reconciler import idle_drafters
from twd.coordinator.core.readers import able, better, unable
from twd.coordinator.core.state import (
    Action,
    DecidePlacement,
    ObservedState,
    SetAim,
    StartProcess,
    StartPull,
    StopProcess,
    StopPull,
    WantedState,
)
from twd.coordinator.fetch_requests import ask_for_layers
from twd.coordinator.header_copies import HeaderCopies
from twd.coordinator.kept_decisions import KeptDecisions
from twd.coordinator.lease import CoordinatorLease, may_act, read_coordinator
from twd.coordinator.links import LinkTable
from twd.coordinator.wanted import wanted_drafters, wanted_models, wanted_replicas
from twd.kit.lease_lock import LeaseLock
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Service, ServiceContext
from twd.kit.tasks import every, heard
from twd.settings.model import PoolConfig, Settings
from twd.wire.base import NodeId
from twd.wire.codec import Rejected
from twd.wire.leases.others import CoordinatorFacts
from twd.wire.node import (
    NodeChanged,
    NodeFacts,
    ProcessAnswered,
    ProcessStarted,
    ProcessStopped,
    ProcessUnwanted,
    ProcessWanted,
    read_node,
)
from twd.wire.placement import PlacementDecided
from twd.wire.service import ServiceExited, ServiceStarted, read_lease
from twd.wire.swarm import PullFailed, PullFinished, PullUnwanted, PullWanted

TURN_S: Final = 1.0
A_MOMENT_S: Final = 0.01
ACTIONS_MAX: Final = 64
"""Actions of one turn at most; the next turn continues with the rest."""
ANSWER_S: Final = 40.0
"""Seconds to wait for an agent's answer; longer than an agent waits until a worker answers."""
CLAIM: Final = "coordinator.active"
AGENT: Final = "agent"
AGENT_KEYS: Final = f"{AGENT}."
STANDS_BY: Final = "stands by"
KEEP_S: Final = LEASE_TTL_S / 3
READ_AGAIN_S: Final = 10.0
"""Seconds between attempts to read a model file: somebody may still be copying it, or its disk may come back."""


class CoordinatorService(Service):
    """Decides what runs where, while it holds the coordinators' key."""

    name = "coordinator"
    reads = (NodeChanged, ProcessStarted, ProcessStopped, ServiceStarted, ServiceExited, PullFinished, PullFailed)
    writes = (PlacementDecided, ProcessWanted, ProcessUnwanted, PullWanted, PullUnwanted)

    def __init__(self, ctx: ServiceContext, settings: Settings) -> None:
        super().__init__(ctx)
        self.note = STANDS_BY
        self._settings = settings
        self._lease_s = settings.coordinator.lease_s
        self._wanted = WantedState(ctx.node, self.instance, settings.pool)
        self._observed = ObservedState()
        self._links = LinkTable()
        pooled = settings.pool if settings.pooled else PoolConfig()
        self._agentless_hosts = AgentlessWatch(pooled, self.instance, ctx.pid, self.clock)
        self._headers = HeaderCopies(ctx.node, self._entries, partial(self.ask, timeout_s=ANSWER_S), self.log)
        self._news = asyncio.Event()
        self._registry: Leases | None = None
        self._decisions = KeptDecisions(self.log)
        self._claim: LeaseLock | None = None
        self._renewed_at = float("-inf")
        self._joined = JoinTimes()
        self._idle_drafters: list[str] = []
        self._left_to = ""
        """Why this coordinator leaves the decisions to one that can plan more models; empty when it does not."""
        self._unheard: set[tuple[NodeId, str]] = set()
        """Node and process of each request that reached no agent."""
        self.bus.on_back(self._bus_back)

    @property
    def active(self) -> bool:
        """Whether this coordinator holds the lease and renewed it recently enough to act now."""
        held = self._claim is not None and self._claim.held
        return held and may_act(self.clock.now(), self._renewed_at, self._lease_s)

    async def setup(self) -> None:
        """Read the models, open the registry, and try to take the lease; as long as another one holds it, stand by."""
        models = await asyncio.to_thread(wanted_models, self._settings)
        drafters = await asyncio.to_thread(wanted_drafters, self._settings)
        self._wanted = replace(self._wanted, models=models, drafters=drafters)
        self._registry = self._decisions.registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self._claim = LeaseLock(self._registry, CLAIM, self._is_mine)
        await self._hold()
        self.tasks.start("hold", every(min(TURN_S, self._lease_s / 4), self._hold))
        self.tasks.start("keep", every(KEEP_S, self._keep_decisions))
        self.tasks.start("read again", every(READ_AGAIN_S, self._read_again))
        self.tasks.start("guests", every(TURN_S, self._watch_agentless))

    async def start(self) -> None:
        """Start the service, and take the first turn at once."""
        await super().start()
        if self._registry is not None and not self.ended.is_set():
            self.tasks.start("turns", self._turns())

    async def teardown(self) -> None:
        """Release the lease, so that another coordinator can act at once."""
        claim, self._claim = self._claim, None
        try:
            if claim is not None:
                await claim.release(self._value())
        except BusError as error:
            self.log.warning("the coordinators' key could not be given up: %s", error)

    @property
    def _remarks(self) -> str:
        fetched = remarks(self._wanted, self._observed)
        return "; ".join([*fetched, *self._idle_drafters, *told_once(self._observed.nodes.values())])

    def facts(self) -> CoordinatorFacts:
        """What `twd status` shows."""
        placed = [name for name, decision in self._observed.decided.items() if not decision.missing_bytes]
        hosts = self._agentless_hosts.facts()
        guests = [f"{known.node}: {one.note or one.state}" for known in hosts for one in known.processes]
        nodes, reads = len(self._observed.nodes), able(self._wanted.models)
        return CoordinatorFacts(active=self.active, nodes=nodes, placed=placed, reads=reads, guests=guests)

    # -- who decides ---------------------------------------------------------------------------

    def _value(self) -> bytes:
        return msgspec.json.encode(CoordinatorLease(instance=self.instance, node=self.ctx.node, pid=self.ctx.pid))

    def _is_mine(self, value: bytes) -> bool:
        holder = read_coordinator(value)
        return holder is not None and holder.instance == self.instance

    async def _hold(self) -> None:
        """Renew the lease, or take it when its holder has not renewed it for too long."""
        if self._claim is None:
            return
        asked_at, was_active = self.clock.now(), self.active
        try:
            if await self._leaves_it():
                self._renewed_at = float("-inf")  # before another coordinator can take the lease
                await self._claim.release(self._value())
                held = False
            else:
                held = await self._claim.renew(self._value()) or await self._take(self._claim)
            if held and not was_active:
                await self._take_up()  # before this one may act: otherwise it would plan as if nothing were placed
        except BusError as error:
            self.log.warning("the coordinators' key could not be renewed: %s", error)
            return
        self._renewed_at = asked_at if held else float("-inf")
        self.note = self._remarks if self.active else self._left_to or STANDS_BY
        if self.active != was_active:
            self.log.info("this coordinator %s", "decides now" if self.active else self._left_to or STANDS_BY)
            if not self.active:
                self._agentless_hosts.restore(())
                self._observed = ObservedState()
            self._news.set()
            await self.renew_lease()

    async def _leaves_it(self) -> bool:
        """Return whether another coordinator can plan what this one can, and also models whose files cannot be read
        here. Sets `_left_to`."""
        self._left_to, lacking = "", unable(self._wanted.models)
        if lacking:
            leases = (read_lease(entry.value, entry.key) for entry in await self._entries())
            there = better(self._wanted.models, [one for one in leases if one is not None and one.service == self.name])
            if there is not None:
                self._left_to = f"{STANDS_BY}: {there} can plan more models; {', '.join(lacking)} cannot be read here"
        return bool(self._left_to)

    async def _read_again(self) -> None:
        """Try again to read the model files that could not be read."""
        for name in unable(self._wanted.models):
            read = await asyncio.to_thread(wanted_replicas, self._settings, name)
            copy = await self._headers.fetch(read[0]) if read[0].shape is None else None
            if copy is not None:
                read = await asyncio.to_thread(wanted_replicas, self._settings, name, copy)
            known = {model.name: model for model in read}
            models = tuple(known.get(model.name, model) for model in self._wanted.models)
            if models != self._wanted.models:
                self._wanted = replace(self._wanted, models=models)
                self._news.set()
                await self.renew_lease()

    async def _take(self, claim: LeaseLock) -> bool:
        return await claim.take(self._value(), self._is_silent) is None

    def _is_silent(self, holder: LeaseEntry) -> bool:
        return holder.age_s > self._lease_s

    # -- decisions for those who come late -----------------------------------------------------

    async def _take_up(self) -> None:
        """Restore what the last coordinator stored in the registry: its decisions and the agentless hosts."""
        decided = await self._decisions.before([model.name for model in self._wanted.models])
        self._agentless_hosts.restore(await self._entries())
        basis = {place: known.basis for place, known in decided.items() if known.basis}
        self._observed = ObservedState(decided=decided, basis=basis)

    async def _keep_decisions(self) -> None:
        await self._decisions.keep_all(lambda: self._observed.decided, lambda: self.active)

    async def _tell(self, decision: PlacementDecided) -> None:
        """Store a decision, then publish it: a receiver looks into the registry and must find it there."""
        await self._decisions.keep(decision)
        self.emit(decision)

    # -- turns ---------------------------------------------------------------------------------

    async def _turns(self) -> None:
        while True:
            self._news.clear()
            if self.active:
                await self._turn()
            await heard(self._news, self._pause_s())

    def _pause_s(self) -> float:
        """Return the seconds until the next turn, unless news come first. Machines that have just joined wait no longer
        than necessary."""
        pause = TURN_S if self._observed.nodes else SETTLE_S
        until = self._joined.until
        return pause if until is None else min(pause, max(0.0, until - self.clock.now()) + A_MOMENT_S)

    async def _turn(self) -> None:
        """Read the registry and measure links; then act until nothing is left to do or this one may no longer act."""
        try:
            nodes = await self._nodes()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        homes = {*self._observed.homes.values(), self.ctx.node}
        self._observed.nodes = counted_once(nodes, promised(self._observed.decided), homes)
        self._observed.looked(self.clock.now())
        await self._links.measure(self._observed.nodes.values(), self.clock.now())
        self._observed.links = self._links.known
        for _ in range(ACTIONS_MAX):
            action = plan(self._wanted, self._observed, self.clock.now())
            if action is None or not self.active:
                break
            self._carry_out(action)
        self._tell_idle_drafters()

    def _tell_idle_drafters(self) -> None:
        idle = idle_drafters(self._wanted, self._observed) if self._observed.nodes else []
        for text in idle:
            if text not in self._idle_drafters:
                self.log.warning("%s", text)
        self._idle_drafters = idle
        if self.active:
            self.note = self._remarks

    async def _nodes(self) -> dict[NodeId, NodeFacts]:
        """Return, by node, the machines whose agents renewed their lease recently, and the agentless hosts."""
        entries = await self._entries()
        fresh = [entry for entry in entries if entry.key.startswith(AGENT_KEYS) and entry.age_s <= self._lease_s]
        found = [facts for entry in fresh if (facts := read_node(entry.value, entry.key)) is not None]
        uses = take_in(self._observed, self._links, entries)
        for worker, why in losses(uses, self._observed.decided):
            self._agentless_hosts.lose(worker, why)
        together = [*found, *self._agentless_hosts.meet(found)] if found else []  # agentless hosts alone serve nobody
        return self._joined.settled(together, self._observed.nodes, self.clock.now())

    async def _entries(self) -> list[LeaseEntry]:
        assert self._registry is not None
        return await self._registry.entries()

    async def _watch_agentless(self) -> None:
        if not self.active or self._registry is None:
            return
        if await self._agentless_hosts.visit(self._used_agentless):
            self._news.set()
        try:
            await self._agentless_hosts.publish(self._registry)
        except BusError as error:
            self.log.warning("guests could not be kept: %s", error)

    def _used_agentless(self) -> set[WorkerKey]:
        """Return the RPC workers of agentless hosts that models are placed on, or that speculators still hold."""
        return {*claims(self._observed.decided), *self._observed.held}

    def _carry_out(self, action: Action) -> None:
        match action:
            case DecidePlacement(decision, basis):
                decision = msgspec.structs.replace(decision, basis=basis)
                place = decision.place
                before = self._observed.decided.get(place)
                if before is not None and moved(before, decision):
                    self._observed.changed_at[place] = self.clock.now()
                self._observed.decided[place] = decision
                self._observed.basis[place] = basis
                self.log.info("%s: %s", place, in_words(decision))
                self.tasks.start(f"tell {place}", self._tell(decision))
            case SetAim(place, aim):
                self._observed.aims[place] = aim
                if aim.decision is not None:
                    self.log.info("%s shall go, when its layers have come: %s", place, in_words(aim.decision))
            case StartPull(wish):
                self._observed.tried[wish.node, pull_name(wish.hash, wish.layers)] = self.clock.now()
                self.tasks.start(f"ask {wish.node} for layers", self._ask_for_layers(wish))
            case StopPull(wish):
                self._observed.tried[wish.node, f"stop {pull_name(wish.hash, wish.layers)}"] = self.clock.now()
                self.tasks.start(f"ask {wish.node} to stop", self._ask_for_layers(wish))
            case StartProcess(wish) | StopProcess(wish):
                self._observed.tried[wish.node, wish.process] = self.clock.now()
                self.tasks.start(f"ask {wish.node} {wish.process}", self._ask(wish))

    async def _ask(self, wish: ProcessWanted | ProcessUnwanted) -> None:
        try:
            answer = await self.ask(wish, timeout_s=ANSWER_S)
        except NoResponders:
            self._unheard.add((wish.node, wish.process))
            self.log.info("%s: its agent listens to no wishes yet; %s waits", wish.node, wish.process)
            return
        except BusError as error:
            self.log.warning("%s: no answer about %s: %s", wish.node, wish.process, error)
            return
        if isinstance(answer, Rejected):
            self.log.warning("%s: an answer about %s that makes no sense: %s", wish.node, wish.process, answer.reason)
        elif isinstance(answer, ProcessAnswered) and answer.failure is not None:
            self.log.warning("%s does not run %s: %s", wish.node, wish.process, answer.failure.message)
        self._news.set()

    async def _ask_for_layers(self, wish: PullWanted | PullUnwanted) -> None:
        await ask_for_layers(partial(self.ask, timeout_s=ANSWER_S), wish, self.log)
        self._news.set()

    # -- hearing -------------------------------------------------------------------------------

    def _bus_back(self) -> None:
        self._joined.back_at = self.clock.now()

    def on_node_changed(self, event: NodeChanged) -> Effects:
        """Start the next turn now instead of waiting for it."""
        self._hears(event.node)
        self._news.set()
        return None

    def on_service_started(self, event: ServiceStarted) -> Effects:
        """An agent has started and accepts requests: ask it again, and start the next turn now."""
        if event.service == AGENT:
            self._hears(event.node)
            self._news.set()
        return None

    def _hears(self, node: NodeId) -> None:
        """An agent is there that did not receive some requests: send them again at once."""
        for key in [key for key in self._unheard if key[0] == node]:
            self._unheard.discard(key)
            self._observed.tried.pop(key, None)

    def on_process_started(self, event: ProcessStarted) -> Effects:
        """Start the next turn now."""
        self._news.set()
        return None

    def on_process_stopped(self, event: ProcessStopped) -> Effects:
        """Start the next turn now."""
        self._news.set()
        return None

    def on_pull_finished(self, event: PullFinished | PullFailed) -> Effects:
        """Start the next turn now: a machine has layers that it lacked, or will not have them."""
        self._news.set()
        return None

    on_pull_failed = on_pull_finished

    def on_service_exited(self, event: ServiceExited) -> Effects:
        """Start the next turn now."""
        self._news.set()
        return None
