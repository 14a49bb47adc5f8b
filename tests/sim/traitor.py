"""One key in the wrong hands: it knows all that was ever said, and says whatever its broker lets it say."""

import random
from collections.abc import Callable

import msgspec

from tests.sim.world import MODEL, World
from twd.bus.base import BusMessage, matches
from twd.bus.key_permissions import Credential, permissions_of
from twd.bus.memory.bus import MemoryBroker, MemoryBus
from twd.wire.base import Event, InstanceId
from twd.wire.codec import encode
from twd.wire.job import JobFinished, JobSubmitted, TokensAccepted
from twd.wire.routes import ROUTE_OF, Delivery

MACHINE = "traitor"
ACTS_S = 0.25
UNTIL_S = 40.0
FLOOD = 200


class GuardedBus(MemoryBus):
    """A connection whose broker refuses what its key is not for."""

    def __init__(self, broker: MemoryBroker, credential: Credential) -> None:
        super().__init__(broker, MACHINE)
        self.allowed = permissions_of(credential)
        self.let_through = 0
        broker.clients.append(self)

    def publish(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """What the key is not for goes nowhere, as with a real broker."""
        if any(matches(pattern, subject) for pattern in self.allowed.publish):
            self.let_through += 1
            super().publish(subject, data, reply=reply)


class Traitor:
    """Forges, repeats, floods and lies with one key."""

    def __init__(self, world: World, role: str, model: str = MODEL) -> None:
        self.world = world
        self.role = role
        self.name = InstanceId(f"{role}.{MACHINE}.x")
        self.bus = GuardedBus(world.broker, Credential(role, MACHINE, (model,)))
        self.heard: list[BusMessage] = []
        self._dice = random.Random(f"traitor {role} {world.plan.seed}")

    async def listen(self) -> None:
        """Hear all that may be heard, but take no jobs: what a worker does with its own is its own affair."""
        for line in self.bus.allowed.subscribe:
            pattern, _, queue = line.partition(" ")
            if not queue:
                await self.bus.subscribe(pattern, self._hear)

    def _hear(self, message: BusMessage) -> None:
        if not any(matches(pattern, message.subject) for pattern in self.bus.allowed.never_heard):
            self.heard.append(message)

    def act(self) -> None:
        """Something bad, made of something true."""
        known = self.world.witness.heard
        if not known or not self.bus.connected:
            return
        _, subject, event = self._dice.choice(known[-200:])
        acts: tuple[Callable[[str, Event], None], ...] = (self._repeat, self._forge, self._lie, self._flood)
        self._dice.choice(acts)(subject, event)

    def _repeat(self, subject: str, event: Event) -> None:
        """The very message, to where it went."""
        self.bus.publish(subject, encode(event), reply=self._inbox())

    def _forge(self, subject: str, event: Event) -> None:
        """Another's words about the same thing, under the forger's own name and under the other's."""
        changed = self._changed(event)
        self.bus.publish(subject, encode(changed))
        route = ROUTE_OF[type(event)]
        if route.delivery is not Delivery.REPLY:
            own = route.subject(msgspec.structs.replace(event, source=self.name))
            self.bus.publish(own, encode(changed))

    def _lie(self, subject: str, event: Event) -> None:
        """The forger's own words in its own name, as a good message would be made."""
        route = ROUTE_OF[type(event)]
        if route.delivery is Delivery.REPLY or isinstance(event, JobSubmitted):
            return
        named = {one: MACHINE if one == "node" else self.name for one in route.own}
        mine = msgspec.structs.replace(self._changed(event), source=self.name, **named)
        self.bus.publish(route.subject(mine), encode(mine))

    def _flood(self, subject: str, event: Event) -> None:
        for _ in range(FLOOD // 10):
            self._lie(subject, event)
            self._repeat(subject, event)

    def _changed(self, event: Event) -> Event:
        match event:
            case TokensAccepted():
                return msgspec.structs.replace(event, tokens=[2, 3, 4], text="lies", index=event.index)
            case JobFinished():
                return msgspec.structs.replace(event, tail="lies", attempt=event.attempt)
            case _:
                return event

    def _inbox(self) -> str:
        """Where the answer to somebody else's question went."""
        inboxes = [subject for _, subject, _ in self.world.witness.heard if subject.startswith("_INBOX.")]
        return self._dice.choice(inboxes) if inboxes else ""


class BetrayedWorld(World):
    """A world with one of them in it."""

    role: str
    model: str = MODEL
    traitor: Traitor

    async def _story(self) -> None:
        self.traitor = Traitor(self, self.role, self.model)
        see = self.witness.see
        self.broker.observers[:] = [lambda node, message: None if node == MACHINE else see(node, message)]
        await self.traitor.listen()
        self.loop.call_later(ACTS_S, self._act)
        await super()._story()

    def _act(self) -> None:
        self.traitor.act()
        if self.loop.time() < UNTIL_S:
            self.loop.call_later(ACTS_S, self._act)

    async def _close(self) -> None:
        self.traitor.bus.kill()
        await super()._close()
