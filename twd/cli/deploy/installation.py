"""The installation on this machine, as a deployment needs it: tokens, members and leases."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from twd.bus.address import BusAddress
from twd.bus.base import BusError, Leases
from twd.bus.join import JoinToken
from twd.membership.core import without_machine, without_token
from twd.membership.reload import reload_users
from twd.membership.roles import DEFAULT_ROLE
from twd.membership.store import MemberStore
from twd.membership.tokens import new_token
from twd.process.home import RunningInstance
from twd.supervisor.pool_registry import nodes_of
from twd.wire.node import NodeFacts

TOKEN_S: Final = 900
LOOK_S: Final = 0.2
GB: Final = 1_000_000_000


@dataclass
class LiveInstallation:
    """What runs here."""

    store: MemberStore
    instance: RunningInstance
    listens: str
    address: BusAddress
    leases: Leases
    hosts: tuple[str, ...] = ()
    _reserved: set[str] = field(default_factory=set)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the certificate here."""
        return self.instance.bus_fingerprint

    async def token(self) -> JoinToken:
        """Make a token for one machine and a few minutes."""
        make = partial(new_token, self.store, self.instance, self.listens, [DEFAULT_ROLE], TOKEN_S, 1, self.hosts)
        return (await asyncio.to_thread(make)).token

    async def revoke(self, token: JoinToken) -> None:
        """End a token that may not have been used."""
        now_ms = time.time_ns() // 1_000_000
        await asyncio.to_thread(self.store.change, partial(without_token, name=token.id, now_ms=now_ms))
        await reload_users(self.store, self.address)

    async def remove(self, node: str, token: JoinToken) -> None:
        """Remove a machine, if it joined with this token: another one of that name stays."""
        found = self.store.load().named(node)
        if found is not None and found.token == token.id:
            await asyncio.to_thread(self.store.change, partial(without_machine, node=node))
            await reload_users(self.store, self.address)

    def taken(self, node: str) -> bool:
        """Whether a machine has this name."""
        return self.store.load().named(node) is not None or node in (self.instance.node, *self.store.own_nodes())

    def reserve(self, node: str) -> bool:
        """Take a name for a machine that will join; False if another one has it, or will."""
        if node in self._reserved or self.taken(node):
            return False
        self._reserved.add(node)
        return True

    async def call_the_roll(self) -> None:
        """Hear all leases for the first time, which takes a moment, so that nobody waits for them later."""
        with contextlib.suppress(BusError):  # who asks for a lease is told
            await self.leases.entries()

    async def lease(self, node: str, wait_s: float) -> str:
        """Wait for the lease of the machine's agent, and return in words what it lends; empty if none came."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            found = next((one for one in nodes_of(await self.leases.entries()) if one.node == node), None)
            if found is not None and not found.looking:
                return lends(found)
            if loop.time() >= deadline:
                return ""
            await asyncio.sleep(LOOK_S)


def lends(facts: NodeFacts) -> str:
    """Return what a machine has for others, in words."""
    cards = ", ".join(f"{gpu.name} ({gpu.total / GB:.0f} GB)" for gpu in facts.gpus)
    memory = f"{facts.memory.available / GB:.0f} of {facts.memory.total / GB:.0f} GB of memory free"
    cores = f"{facts.cpu.cores} cores"
    return ", ".join(filter(None, [cards, cores, memory, f"{len(facts.models)} models"]))
