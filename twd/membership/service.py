"""Lets machines in and out: runs on the machine of the broker, and alone may hear who asks to join."""

import asyncio
from functools import partial

from twd.kit.connect import address_of
from twd.kit.effects import Do
from twd.kit.errors import internal
from twd.kit.service import Effects, Reply, Service, ServiceContext
from twd.membership.core import Members, admit, without_machine
from twd.membership.reload import reload_users
from twd.membership.store import MemberStore
from twd.settings.model import Settings
from twd.wire.failures import TwdError
from twd.wire.names import machine_of
from twd.wire.node import JoinRequested, LeaveRequested, MachineRemoved, MembershipAnswered


class MembershipService(Service):
    """Answers machines that ask to join or to leave."""

    name = "membership"
    reads = (JoinRequested, LeaveRequested)
    writes = (MachineRemoved,)

    def __init__(self, ctx: ServiceContext, settings: Settings) -> None:
        super().__init__(ctx)
        self._store = MemberStore(settings.home_dir)
        self._address = address_of(settings.bus, self.name)

    def on_join_requested(self, event: JoinRequested, reply: Reply) -> Effects:
        """Let a machine in whose token is good."""
        return [Do(f"join {event.id}", partial(self._answer, event, reply))]

    def on_leave_requested(self, event: LeaveRequested, reply: Reply) -> Effects:
        """Let a machine go."""
        return [Do(f"leave {event.id}", partial(self._answer, event, reply))]

    async def _answer(self, event: JoinRequested | LeaveRequested, reply: Reply) -> None:
        try:
            answer = await (self._let_in(event) if isinstance(event, JoinRequested) else self._let_go(event))
        except TwdError as error:
            self.log.warning("%s: %s", event.node, error)
            answer = MembershipAnswered(node=event.node, failure=error.failure)
        except Exception as error:  # noqa: BLE001 - reported; the asker waits for an answer
            self.tell_fault(error, type(event).__name__)
            answer = MembershipAnswered(node=event.node, failure=internal(error))
        reply(answer)
        if isinstance(event, LeaveRequested) and answer.failure is None:
            await self._take_out(event)

    async def _let_in(self, event: JoinRequested) -> MembershipAnswered:
        token = machine_of(event.source)
        own = [self.ctx.node, *self._store.own_nodes()]

        def decide(members: Members) -> Members:
            return admit(members, token, event, own, self.clock.wall_ms()).members

        members = await asyncio.to_thread(self._store.change, decide)
        await reload_users(self._store, self._address)
        machine = members.named(event.node)
        assert machine is not None
        self.log.info("%s joined with the token %s as %s", event.node, token, ", ".join(machine.roles))
        return MembershipAnswered(node=event.node, roles=[*machine.roles], bus_roles=[*machine.keys])

    async def _let_go(self, event: LeaveRequested) -> MembershipAnswered:
        await asyncio.to_thread(self._store.change, partial(without_machine, node=event.node))
        self.log.info("%s leaves", event.node)
        return MembershipAnswered(node=event.node)

    async def _take_out(self, event: LeaveRequested) -> None:
        """End the machine's connections, now that it has its answer."""
        self.emit(MachineRemoved(node=event.node))
        try:
            await self.bus.flush()
            await reload_users(self._store, self._address)
        except TwdError as error:
            self.log.error("%s is out at the broker's next start alone: %s", event.node, error)
            self.note = str(error)
