"""Probes the RPC workers of agentless hosts, and keeps the hosts in the registry while this coordinator decides."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

import msgspec

from twd.bus.base import LeaseEntry, Leases
from twd.coordinator.core.machines.agentless_hosts import (
    AgentlessHost,
    EndpointState,
    RpcEndpoint,
    WorkerKey,
    agentless_facts,
    agentless_hosts_of,
    barred,
    is_due,
    lost,
    remembered,
    visited,
)
from twd.engine.rpc.probe import RpcUnusable, RpcWorkerFacts, look
from twd.kit.clock import Clock
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import GUEST_KEYS, NodeFacts, read_node

FOREVER: Final = float("inf")
Look = Callable[[str, int], Awaitable[RpcWorkerFacts]]


class AgentlessWatch:
    """The agentless hosts of one installation, as the acting coordinator knows them."""

    def __init__(self, pool: PoolConfig, instance: InstanceId, pid: int, clock: Clock, look_at: Look = look) -> None:
        self._pool = pool
        self._instance = instance
        self._pid = pid
        self._clock = clock
        self._look_at = look_at
        self._agentless_hosts: list[AgentlessHost] = []
        self._met = False
        """Whether `meet` has filled the list of agentless hosts since the last `restore`."""
        self._seen: dict[WorkerKey, EndpointState] = {}
        self._told: set[str] = set()
        """Keys of agentless hosts that are in the registry."""

    def meet(self, agents: Sequence[NodeFacts]) -> list[NodeFacts]:
        """Find the agentless hosts of the settings, given the machines that have an agent; return their facts."""
        self._agentless_hosts, self._met = agentless_hosts_of(self._pool, agents), True
        known = {(guest.node, door.process) for guest in self._agentless_hosts for door in guest.doors}
        self._seen = {key: seen for key, seen in self._seen.items() if key in known}
        return self.facts()

    def facts(self) -> list[NodeFacts]:
        """Return the facts of all agentless hosts, as others read them in the registry."""
        return [self._facts(guest) for guest in self._agentless_hosts]

    def _facts(self, guest: AgentlessHost) -> NodeFacts:
        def seen(door: RpcEndpoint) -> EndpointState | None:
            return self._seen.get((guest.node, door.process))

        return agentless_facts(guest, seen, self._instance, self._pid)

    def restore(self, entries: Iterable[LeaseEntry]) -> None:
        """Restore what the last coordinator stored: a worker that serves a client cannot be probed again."""
        kept = [entry for entry in entries if entry.key.startswith(GUEST_KEYS)]
        self._told, self._met = {entry.key for entry in kept}, False
        now = self._clock.now()
        for facts in filter(None, (read_node(entry.value, entry.key) for entry in kept)):
            self._seen |= {(facts.node, process): seen for process, seen in remembered(facts, now).items()}

    def lose(self, key: WorkerKey, why: str) -> None:
        """Record that a speculator could not use a worker; a problem that is already known stays."""
        if (seen := self._seen.get(key)) is not None and seen.problem:
            return
        self._seen[key] = lost(seen, why, self._clock.now())

    async def visit(self, used: Callable[[], Collection[WorkerKey]]) -> bool:
        """Probe the workers that are due and that nobody uses; return whether the facts changed."""
        busy, now = used(), self._clock.now()
        due = [
            (guest.node, door)
            for guest in self._agentless_hosts
            for door in guest.doors
            if (key := (guest.node, door.process)) not in busy and is_due(self._seen.get(key), now)
        ]
        before = self.facts()
        found = await asyncio.gather(*(self._visit(node, door) for node, door in due))
        busy = used()  # drop the result of a worker that came into use meanwhile: it was serving another client
        self._seen |= {key: seen for key, seen in found if key not in busy}
        return self.facts() != before

    async def _visit(self, node: NodeId, door: RpcEndpoint) -> tuple[WorkerKey, EndpointState]:
        key = (node, door.process)
        if why := barred(door.host, self._pool):
            return key, EndpointState(FOREVER, problem=why)
        told: RpcWorkerFacts | RpcUnusable
        try:
            told = await self._look_at(door.host, door.port)
        except RpcUnusable as problem:
            told = problem
        return key, visited(door, told, self._pool, self._seen.get(key), self._clock.now())

    async def publish(self, registry: Leases) -> None:
        """Store all agentless hosts in the registry; delete the keys of hosts that are no longer among them."""
        if not self._met:  # until then the entries of the last coordinator stay
            return
        values = {f"{GUEST_KEYS}{facts.node}": msgspec.json.encode(facts) for facts in self.facts()}
        gone, self._told = self._told - values.keys(), set(values)
        for key in gone:
            await registry.delete(key)
        for key, value in values.items():
            await registry.put(key, value)
