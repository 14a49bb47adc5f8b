"""The speculator of a model that lies on several machines: it waits for its parts, watches them, and comes back.

llama.cpp ends the process when a worker dies, and hangs when one hangs. Both are answered in the same way: this
process ends, its supervisor starts it again, it loads with what is there then, and the owners of its jobs submit them
again from the tokens they have.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

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
from twd.wire.node import CPU, NodeChanged
from twd.wire.placement import (
    CERTIFICATE_FACT,
    GUESTS_FACT,
    PLACE_FACT,
    WAYS_FACT,
    GuestUse,
    PlacementDecided,
    Way,
    place_of,
)
from twd.wire.service import ServiceFaulted

LOOK_S: Final = 1.0
"""Between two looks while nothing is heard; an engine that is overdue before is looked at just then."""
OVERDUE_S: Final = 0.01
LOADING_S: Final = 120.0
"""A load without any progress for so long hangs."""
SUSPECT_S: Final = 1.0
"""A pass that takes longer, while a worker is gone by its agent's word, is waited for no more."""
CHANGE_S: Final = 30.0
"""A better placement waits so long for a moment without jobs."""
GOODBYE_S: Final = 0.3
ENOUGH_BYTES: Final = 4 * 1024**2
"""What went over a link must be this much before it tells the link's bandwidth."""

Assembled = Callable[[PoolAssembly], Awaitable[Load]]
"""From parts that are all there to what loads the model; raises TwdError where one cannot be used after all."""


class PooledSpeculator(SpeculatorService):
    """Serves one model over the machines that the coordinator chose."""

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
        """There is something to guard against, or to follow."""
        self._now = PoolAssembly()
        self._over: PoolAssembly | None = None
        """What the model was loaded over."""
        self._progress_at = 0.0
        self._better_since: float | None = None
        self._leaving = False
        self._traffic = LinkTraffic()
        self.certificate = ""
        """With which this process comes to workers that are reached by an encrypted way."""
        self.guests: list[GuestUse] = []
        """Workers of guests that this process holds, or could not use."""

    def under_way(self) -> None:
        """Passes wait for other machines; `_keep_guarding` watches them."""

    async def setup(self) -> None:
        """Open the registry."""
        await super().setup()
        registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self._view = PoolView(registry, self._place, self._settings.coordinator.lease_s)

    async def start(self) -> None:
        """Start, and watch the parts from now on."""
        await super().start()
        if not self.ended.is_set():
            self.tasks.start("look", self._keep_looking())
            self.tasks.start("guard", self._keep_guarding())

    def facts(self) -> dict[str, str | int | float | bool | list[str]]:
        """Besides, where the model lies and what its links carried."""
        over = self._over or self._now
        engine = self._settings.pool.engine
        told = {**super().facts(), CERTIFICATE_FACT: self.certificate, "engine": engine, PLACE_FACT: self._place}
        if self.guests:
            told[GUESTS_FACT] = msgspec.json.encode(self.guests).decode()
        placement = over.placement
        if placement is None:
            return told
        return {
            **told,
            "pool": [_shown(member) for member in over.members],
            "links": self._traffic.shown(over, placement),
            WAYS_FACT: msgspec.json.encode(self._traffic.ways(over)).decode(),
            "tokens": self._traffic.tokens,
        }

    async def tell_guests(self, uses: list[GuestUse]) -> None:
        """A guest's worker that is held is visited by nobody else, and one that cannot be used is planned without."""
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
        """Where the model goes now."""
        if event.place == self._place and self._view is not None:
            self._view.placement = event
            self._news.set()
        return None

    def on_node_changed(self, event: NodeChanged) -> Effects:
        """A machine of ours may have changed."""
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
        """Wait until every part is there and answers."""
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
        """A try failed."""
        self._over = None  # until it is tried again, there is nothing to guard
        super().cannot_load(error, new)

    def _tell_waiting(self, note: str) -> None:
        if note != self.note:
            self.note = note
            self.log.info("%s: %s", self.model, note)
            self.tasks.start("tell", self.renew_lease())

    def tell_progress(self, share: float, stage: str) -> None:
        """So much is loaded."""
        self._progress_at = self.clock.now()
        super().tell_progress(share, stage)

    # -- guarding ------------------------------------------------------------------------------

    async def _keep_guarding(self) -> None:
        """After each look, and when the engine is overdue: a broker that is away keeps nobody from finding that."""
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
        """Is everything there that the model was loaded over, and does the engine go on?"""
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
        """Since when a pass or a load is under way, and how long it may take before something must hang."""
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
            self._stirred.set()  # what waited for this moment need not wait any longer

    async def _look_for_better(self, over: PoolAssembly, now: float) -> None:
        """Another placement is taken when its parts are there, and nobody waits or it has waited long enough."""
        if not self._now.complete or self._now.signature == over.signature:
            self._better_since = None
            return
        self._better_since = now if self._better_since is None else self._better_since
        if not self._owners or now - self._better_since > CHANGE_S:
            await self._come_back("the model goes elsewhere: " + ", ".join(member.name for member in self._now.members))

    async def _come_back(self, why: str) -> None:
        """End this process: its supervisor starts another at once, and the jobs' owners go on with that."""
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
    """Which guest's worker has closed its connection: no agent would tell. Empty where none has."""
    guests = {member.address: member.name for member in over.processes.values() if member.is_guest}
    closed = [guests[at] for at, count in count_links(set(guests)).items() if count.hung_up]
    return f"{closed[0]} hung up" if closed else ""


class LinkTraffic:
    """What the links carried since the model was loaded, for each token that came out."""

    def __init__(self) -> None:
        self.tokens = 0
        self._before: dict[tuple[str, int], LinkCount] = {}

    def begin(self, over: PoolAssembly) -> None:
        """From now on; what loading took is left out."""
        self.tokens, self._before = 0, count_links({member.address for member in over.processes.values()})

    def shown(self, over: PoolAssembly, placement: PlacementDecided) -> list[str]:
        """Each machine's link: its round trip, and what went over it."""
        addresses = {member.address: member.slice.node for member in over.processes.values()}
        counts = count_links(set(addresses))
        return [self._line(node, counts.get(at), at, placement.links.get(node, 0.0)) for at, node in addresses.items()]

    def ways(self, over: PoolAssembly) -> list[Way]:
        """What is known of them after the weights were sent."""
        addresses = {member.address: member.slice.node for member in over.processes.values()}
        counts = count_links(set(addresses))
        return [
            Way(node=addresses[at], rtt_ms=count.rtt_ms, bandwidth=count.rate if count.sent >= ENOUGH_BYTES else 0)
            for at, count in counts.items()
        ]

    def _line(self, node: str, count: LinkCount | None, address: tuple[str, int], told_ms: float) -> str:
        rtt_ms = told_ms or (count.rtt_ms if count else 0.0)
        if count is None or not self.tokens:
            return f"{node} {rtt_ms:g} ms"
        before = self._before.get(address, LinkCount())
        there, back = count.sent - before.sent, count.received - before.received
        each = f"{there // self.tokens} bytes there and {back // self.tokens} back a token"
        return f"{node} {rtt_ms:g} ms, {each}"
