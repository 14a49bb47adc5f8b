"""A pooled model over RPC workers: it waits for its parts, watches them, and restarts if one is lost.

llama.cpp ends the process when a worker dies, and hangs when one hangs. Both have the same answer: this process ends,
its supervisor starts it again, it loads with the parts that are there then, and the owners submit their jobs again
from the tokens that they have.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec.structs import replace

from twd.bus.base import BusError
from twd.kit.exit_codes import ExitCode
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.kit.tasks import heard
from twd.net.tcp_info import count_links
from twd.process.compute import crowding
from twd.process.core_registry import OwnCores
from twd.settings.model import Settings
from twd.speculator.targets.link_traffic import LinkTraffic
from twd.speculator.targets.loaded import Load, LoadedModel
from twd.speculator.targets.pool_core import (
    PoolAssembly,
    RingMember,
    pass_deadline_s,
    replaced,
    shown_piece,
    silent,
    still_placed,
)
from twd.speculator.targets.pool_view import PoolView
from twd.speculator.targets.source import TargetHost, TargetSource
from twd.wire.base import Event
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import CPU, NodeChanged
from twd.wire.placement import (
    GuestUse,
    PlacementDecided,
)
from twd.wire.service import ServiceFaulted

LOOK_S: Final = 1.0
"""Seconds between two checks while no event comes; a pass that becomes overdue earlier is checked then."""
OVERDUE_S: Final = 0.01
LOADING_S: Final = 120.0
"""A load without progress for this many seconds counts as hung."""
SUSPECT_S: Final = 1.0
"""A pass may take this many seconds while a worker is reported as gone."""
CHANGE_S: Final = 30.0
"""A better placement waits at most this many seconds for a moment without jobs."""
GOODBYE_S: Final = 0.3

Assembled = Callable[[PoolAssembly], Awaitable[Load]]
"""Returns what loads the model from complete parts; raises TwdError where a part cannot be used."""


class PoolSource(TargetSource):
    """A model on the machines that the coordinator chose."""

    watched = True

    def __init__(
        self,
        settings: Settings,
        place: str,
        load: Assembled,
        leave: Callable[[int], None] = os._exit,
        cores: OwnCores | None = None,
    ) -> None:
        self.cores = cores
        self._place = place
        self._settings = settings
        self._assembled = load
        self._leave_with = leave
        self._news = asyncio.Event()
        self._looked = asyncio.Event()
        self._stirred = asyncio.Event()
        """Set when the parts must be checked again."""
        self._now = PoolAssembly()
        self._over: PoolAssembly | None = None
        """The assembly with which the model was loaded."""
        self._progress_at = 0.0
        self._better_since: float | None = None
        self._leaving = False
        self._traffic = LinkTraffic()
        self.certificate = ""
        """The certificate that this process shows to workers behind an encrypted connection."""
        self.guests: list[GuestUse] = []
        """Workers of agentless hosts that this process holds, or could not use."""

    @property
    def hears(self) -> tuple[type[Event], ...]:
        """The coordinator's decisions, and news of machines."""
        return (PlacementDecided, NodeChanged)

    async def open(self, host: TargetHost) -> None:
        """Open the registry."""
        self._host = host
        registry = await host.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self._view = PoolView(registry, self._place, self._settings.coordinator.lease_s)

    async def watch(self) -> None:
        """Look for the parts, and guard the loaded ones, as long as the speculator runs."""
        self._host.tasks.start("guard", self._keep_guarding())
        await self._keep_looking()

    def facts(self, facts: SpeculatorFacts) -> SpeculatorFacts:
        """Returns the facts of any speculator, and where the model lies and what its links carried."""
        over = self._over or self._now
        told = replace(
            facts,
            engine=self._settings.pool.engine,
            place=self._place,
            certificate=self.certificate,
            guests=self.guests,
        )
        placement = over.placement
        if placement is None:
            return told
        links, ways = self._traffic.told(over, placement)
        pool = [_shown(member) for member in over.members]
        return replace(told, pool=pool, links=links, ways=ways, tokens=self._traffic.tokens)

    async def show(self, certificate: str) -> None:
        """Publish the certificate by which workers recognize this process."""
        self.certificate = certificate
        await self._host.renew_lease()

    async def tell_guests(self, uses: list[GuestUse]) -> None:
        """Publish the workers of agentless hosts: nobody else connects to one that is held, and plans leave out one
        that cannot be used."""
        if uses != self.guests:
            self.guests = uses
            await self._host.renew_lease()

    def serves(self, loaded: LoadedModel) -> None:
        """Count what the links carry from now on."""
        if self._over is not None:
            self._traffic.begin(self._over)
            where = ", ".join(_shown(member) for member in self._over.members)
            self._host.log.info("%s is loaded after %d ms over %s", self._host.model, loaded.load_ms, where)

    def accepted(self, tokens: int) -> None:
        """Count accepted tokens, to tell how many bytes the links carry for each."""
        self._traffic.tokens += tokens

    # -- looking -------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Take the coordinator's decision for this model, and check the parts again if a machine of it changed."""
        if isinstance(event, PlacementDecided) and event.place == self._place:
            self._view.placement = event
            self._news.set()
        elif isinstance(event, NodeChanged):
            placement = self._view.placement
            if placement is None or any(piece.node == event.node for piece in placement.slices):
                self._news.set()

    async def _keep_looking(self) -> None:
        while True:
            self._news.clear()
            await self._look()
            self._stirred.set()
            await heard(self._news, LOOK_S)

    async def _look(self) -> None:
        try:
            self._now = await self._view.look()
        except BusError as error:
            self._host.log.warning("the registry could not be read: %s", error)
            return
        if self._over is None:
            await self.tell_guests(still_placed(self.guests, self._now))
        self._looked.set()

    # -- loading -------------------------------------------------------------------------------

    async def acquire(self) -> Load:
        """Wait until every part is there and answers. Returns what loads the model."""
        while True:
            now = self._now
            if now.complete:
                try:
                    load = await self._assembled(now)
                except TwdError as error:
                    self._host.tell_waiting(str(error))
                else:
                    self._over, self._progress_at = now, self._host.clock.now()
                    return load
            elif now.waits_for:
                self._host.tell_waiting(f"waits for {'; '.join(now.waits_for)}")
            if self._now is now:
                self._looked.clear()
                await self._looked.wait()

    def failed(self) -> None:
        """Until the next try there is nothing to watch."""
        self._over = None

    def progressed(self) -> None:
        """The load does not hang."""
        self._progress_at = self._host.clock.now()

    # -- guarding ------------------------------------------------------------------------------

    async def _keep_guarding(self) -> None:
        """Check the parts after each look at the registry and when a pass is overdue. This also works while the broker
        is away."""
        while True:
            self._stirred.clear()
            await self._guard()
            await heard(self._stirred, self._pause_s())

    def _pause_s(self) -> float:
        since, limit = self._under_way()
        if since is None or self._over is None or self._leaving:
            return LOOK_S
        return min(LOOK_S, max(0.0, since + limit - self._host.clock.now()) + OVERDUE_S)

    async def _guard(self) -> None:
        """Check that all parts of the loaded model are there and that the engine makes progress."""
        over, now = self._over, self._host.clock.now()
        if over is None or self._leaving:
            return
        gone = replaced(over, self._now) or hung_up(over)
        since, limit = self._under_way()
        if since is not None and now - since > limit:
            why = gone or silent(over, self._now) or "a worker hangs"
            await self.replace(f"the engine has not gone on for {now - since:.1f} s: {why}")
        elif gone and self._host.loaded is not None and since is None:
            await self.replace(gone)
        await self._look_for_better(over, now)

    def _under_way(self) -> tuple[float | None, float]:
        """Returns since when a pass or load is running, and how many seconds it may take before it counts as hung."""
        runner, loaded, over = self._host.engine, self._host.loaded, self._over
        if runner is None or loaded is None:
            since, limit = (self._progress_at if loaded is None else None), LOADING_S
        else:
            rows = max(1, runner.busy_rows)
            familiar = self._on_processors or runner.pace.familiar(rows)
            since, limit = runner.busy_since, pass_deadline_s(loaded.cost.ms(rows), crowding(), familiar=familiar)
        in_doubt = over is not None and (replaced(over, self._now) or silent(over, self._now))
        return since, SUSPECT_S if in_doubt else limit

    @property
    def _on_processors(self) -> bool:
        return self._over is not None and all(member.slice.device == CPU for member in self._over.members)

    def rests(self) -> None:
        """A better placement may have waited for this moment."""
        if self._better_since is not None:
            self._stirred.set()

    async def _look_for_better(self, over: PoolAssembly, now: float) -> None:
        """Change to another placement when its parts are there, and no job runs or it has waited long enough."""
        if not self._now.complete or self._now.signature == over.signature:
            self._better_since = None
            return
        self._better_since = now if self._better_since is None else self._better_since
        if not self._host.jobs or now - self._better_since > CHANGE_S:
            await self.replace("the model goes elsewhere: " + ", ".join(member.name for member in self._now.members))

    async def replace(self, why: str) -> None:
        """End this process. Its supervisor starts another at once, and the owners submit their jobs to that one."""
        if self._leaving:
            return
        self._leaving = True
        self._host.log.error("%s; this process ends and comes back", why)
        failure = Failure(code=FailureCode.WORKER_LOST, message=why)
        self._host.emit(
            ServiceFaulted(service=self._host.name, node=self._host.ctx.node, failure=failure, during="pool")
        )
        try:
            await asyncio.wait_for(self._host.bus.flush(GOODBYE_S), 2 * GOODBYE_S)
        except (BusError, TimeoutError) as error:
            self._host.log.warning("nobody could be told: %s", error)
        self._leave_with(ExitCode.WORKER_LOST)


def _shown(member: RingMember) -> str:
    return shown_piece(member.name, member.slice)


def hung_up(over: PoolAssembly) -> str:
    """Returns which agentless host's worker has closed its connection; empty: none. No agent would report that."""
    guests = {member.address: member.name for member in over.processes.values() if member.is_guest}
    closed = [guests[at] for at, count in count_links(set(guests)).items() if count.hung_up]
    return f"{closed[0]} hung up" if closed else ""
