"""The speculator of a pooled model: it waits for its parts, watches them, and restarts if one is lost.

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
from twd.kit.effects import Effect, Publish
from twd.kit.exit_codes import ExitCode
from twd.kit.progress import Progress
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, ServiceContext
from twd.kit.tasks import heard
from twd.net.tcp_info import LinkCount, count_links
from twd.process.compute import crowding
from twd.process.core_registry import OwnCores
from twd.settings.model import Settings
from twd.speculator.service import SpeculatorService
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
from twd.wire.base import ModelId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import TokensAccepted
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import CPU, NodeChanged
from twd.wire.placement import (
    GuestUse,
    PlacementDecided,
    Way,
    place_of,
)
from twd.wire.ring import HopFacts
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
ENOUGH_BYTES: Final = 4 * 1024**2
"""A link must have carried this many bytes before its bandwidth is reported."""

Assembled = Callable[[PoolAssembly], Awaitable[Load]]
"""Returns what loads the model from complete parts; raises TwdError where a part cannot be used."""


class PooledSpeculator(SpeculatorService):
    """Serves one model on the machines that the coordinator chose."""

    reads = (*SpeculatorService.reads, PlacementDecided, NodeChanged)

    def __init__(
        self,
        ctx: ServiceContext,
        model: ModelId,
        settings: Settings,
        load: Assembled,
        leave: Callable[[int], None] = os._exit,
        replica: int = 1,
        cores: OwnCores | None = None,
    ) -> None:
        super().__init__(ctx, model, _never, cores=cores)
        self._place = place_of(model, replica)
        self._settings = settings
        self._assembled = load
        self._leave_with = leave
        self._view: PoolView | None = None
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

    def under_way(self) -> None:
        """Returns None: passes wait for other machines, and `_keep_guarding` watches them."""

    async def setup(self) -> None:
        """Open the registry."""
        await super().setup()
        registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self._view = PoolView(registry, self._place, self._settings.coordinator.lease_s)

    async def start(self) -> None:
        """Start the service and the tasks that watch the parts."""
        await super().start()
        if not self.ended.is_set():
            self.tasks.start("look", self._keep_looking())
            self.tasks.start("guard", self._keep_guarding())

    def facts(self) -> SpeculatorFacts:
        """Returns the facts of any speculator, and where the model lies and what its links carried."""
        over = self._over or self._now
        told = replace(
            super().facts(),
            engine=self._settings.pool.engine,
            place=self._place,
            certificate=self.certificate,
            guests=self.guests,
        )
        placement = over.placement
        if placement is None:
            return told
        return replace(
            told,
            pool=[_shown(member) for member in over.members],
            links=self._traffic.links(over, placement),
            ways=self._traffic.ways(over),
            tokens=self._traffic.tokens,
        )

    async def tell_guests(self, uses: list[GuestUse]) -> None:
        """Publish the workers of agentless hosts: nobody else connects to one that is held, and plans leave out one
        that cannot be used."""
        if uses != self.guests:
            self.guests = uses
            await self.renew_lease()

    async def open_for_work(self, loaded: LoadedModel) -> None:
        if self._over is not None:
            self._traffic.begin(self._over)
            where = ", ".join(_shown(member) for member in self._over.members)
            self.log.info("%s is loaded after %d ms over %s", self.model, loaded.load_ms, where)
        await super().open_for_work(loaded)

    def _deliver(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish) and isinstance(effect.event, TokensAccepted):
                self._traffic.tokens += len(effect.event.tokens)
        super()._deliver(effects)

    # -- looking -------------------------------------------------------------------------------

    def on_placement_decided(self, event: PlacementDecided) -> Effects:
        """Take the coordinator's decision for this model."""
        if event.place == self._place and self._view is not None:
            self._view.placement = event
            self._news.set()
        return None

    def on_node_changed(self, event: NodeChanged) -> Effects:
        """Check the parts again, because a machine of this pool may have changed."""
        placement = self._view.placement if self._view is not None else None
        if placement is None or any(piece.node == event.node for piece in placement.slices):
            self._news.set()
        return None

    async def _keep_looking(self) -> None:
        while True:
            self._news.clear()
            await self._look()
            self._stirred.set()
            await heard(self._news, LOOK_S)

    async def _look(self) -> None:
        assert self._view is not None
        try:
            self._now = await self._view.look()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        if self._over is None:
            await self.tell_guests(still_placed(self.guests, self._now))
        self._looked.set()

    # -- loading -------------------------------------------------------------------------------

    async def loader(self) -> Load:
        """Wait until every part is there and answers. Returns what loads the model."""
        while True:
            now = self._now
            if now.complete:
                try:
                    load = await self._assembled(now)
                except TwdError as error:
                    self._tell_waiting(str(error))
                else:
                    self._over, self._progress_at = now, self.clock.now()
                    return load
            elif now.waits_for:
                self._tell_waiting(f"waits for {'; '.join(now.waits_for)}")
            if self._now is now:
                self._looked.clear()
                await self._looked.wait()

    def cannot_load(self, error: TwdError, new: bool) -> None:
        """Handle a failed load."""
        self._over = None  # until the next try there is nothing to watch
        super().cannot_load(error, new)

    def _tell_waiting(self, note: str) -> None:
        if note != self.note:
            self.note = note
            self.log.info("%s: %s", self.model, note)
            self.tasks.start("tell", self.renew_lease())

    def tell_progress(self, share: float, stage: str) -> None:
        """Publish which share of the model is loaded."""
        self._progress_at = self.clock.now()
        super().tell_progress(share, stage)

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
        return min(LOOK_S, max(0.0, since + limit - self.clock.now()) + OVERDUE_S)

    async def _guard(self) -> None:
        """Check that all parts of the loaded model are there and that the engine makes progress."""
        over, now = self._over, self.clock.now()
        if over is None or self._leaving:
            return
        gone = replaced(over, self._now) or hung_up(over)
        since, limit = self._under_way()
        if since is not None and now - since > limit:
            why = gone or silent(over, self._now) or "a worker hangs"
            await self._come_back(f"the engine has not gone on for {now - since:.1f} s: {why}")
        elif gone and self.loaded is not None and (self._runner is None or self._runner.busy_since is None):
            await self._come_back(gone)
        await self._look_for_better(over, now)

    def _under_way(self) -> tuple[float | None, float]:
        """Returns since when a pass or load is running, and how many seconds it may take before it counts as hung."""
        runner, over = self._runner, self._over
        if runner is None or self.loaded is None:
            since, limit = (self._progress_at if self.loaded is None else None), LOADING_S
        else:
            rows = max(1, runner.busy_rows)
            familiar = self._on_processors or runner.pace.familiar(rows)
            since, limit = runner.busy_since, pass_deadline_s(self.loaded.cost.ms(rows), crowding(), familiar=familiar)
        in_doubt = over is not None and (replaced(over, self._now) or silent(over, self._now))
        return since, SUSPECT_S if in_doubt else limit

    @property
    def _on_processors(self) -> bool:
        return self._over is not None and all(member.slice.device == CPU for member in self._over.members)

    def _look_idle(self) -> None:
        super()._look_idle()
        if self._better_since is not None and not self._owners:
            self._stirred.set()  # a better placement may have waited for this moment

    async def _look_for_better(self, over: PoolAssembly, now: float) -> None:
        """Change to another placement when its parts are there, and no job runs or it has waited long enough."""
        if not self._now.complete or self._now.signature == over.signature:
            self._better_since = None
            return
        self._better_since = now if self._better_since is None else self._better_since
        if not self._owners or now - self._better_since > CHANGE_S:
            await self._come_back("the model goes elsewhere: " + ", ".join(member.name for member in self._now.members))

    async def _come_back(self, why: str) -> None:
        """End this process. Its supervisor starts another at once, and the owners submit their jobs to that one."""
        if self._leaving:
            return
        self._leaving = True
        self.log.error("%s; this process ends and comes back", why)
        failure = Failure(code=FailureCode.WORKER_LOST, message=why)
        self.emit(ServiceFaulted(service=self.name, node=self.ctx.node, failure=failure, during="pool"))
        try:
            await asyncio.wait_for(self.bus.flush(GOODBYE_S), 2 * GOODBYE_S)
        except (BusError, TimeoutError) as error:
            self.log.warning("nobody could be told: %s", error)
        self._leave_with(ExitCode.WORKER_LOST)


def _never(progress: Progress) -> LoadedModel:
    raise AssertionError("a pooled model is loaded over its parts")


def _shown(member: RingMember) -> str:
    return shown_piece(member.name, member.slice)


def hung_up(over: PoolAssembly) -> str:
    """Returns which agentless host's worker has closed its connection; empty: none. No agent would report that."""
    guests = {member.address: member.name for member in over.processes.values() if member.is_guest}
    closed = [guests[at] for at, count in count_links(set(guests)).items() if count.hung_up]
    return f"{closed[0]} hung up" if closed else ""


class LinkTraffic:
    """What the links carried since the model was loaded, for each accepted token."""

    def __init__(self) -> None:
        self.tokens = 0
        self._before: dict[tuple[str, int], LinkCount] = {}

    def begin(self, over: PoolAssembly) -> None:
        """Start to count; the bytes of loading are left out."""
        self.tokens, self._before = 0, count_links({member.address for member in over.processes.values()})

    def links(self, over: PoolAssembly, placement: PlacementDecided) -> list[HopFacts]:
        """Returns each machine's link: its round trip, and the bytes since the model was loaded."""
        addresses = {member.address: member.slice.node for member in over.processes.values()}
        counts = count_links(set(addresses))
        return [self._link(node, counts.get(at), at, placement.links.get(node, 0.0)) for at, node in addresses.items()]

    def ways(self, over: PoolAssembly) -> list[Way]:
        """Returns the round trip and bandwidth of each link; the bandwidth is known after the weights were sent."""
        addresses = {member.address: member.slice.node for member in over.processes.values()}
        counts = count_links(set(addresses))
        return [
            Way(node=addresses[at], rtt_ms=count.rtt_ms, bandwidth=count.rate if count.sent >= ENOUGH_BYTES else 0)
            for at, count in counts.items()
        ]

    def _link(self, node: str, count: LinkCount | None, address: tuple[str, int], told_ms: float) -> HopFacts:
        rtt_ms = told_ms or (count.rtt_ms if count else 0.0)
        if count is None or not self.tokens:
            return HopFacts(to=node, rtt_ms=rtt_ms)
        before = self._before.get(address, LinkCount())
        sent, received = count.sent - before.sent, count.received - before.received
        return HopFacts(to=node, rtt_ms=rtt_ms, sent_bytes=max(0, sent), received_bytes=max(0, received))
