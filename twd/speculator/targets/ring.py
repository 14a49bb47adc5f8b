"""A model on a ring of stages: connects the stages, and replaces a lost stage by connecting a new ring.

Sessions stay here while a ring is lost: the next ring reads their tokens again, and their texts go on.
"""

import asyncio
import sys
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from twd.bus.base import Bus, BusError
from twd.gguf_tools.model_file import file_hash
from twd.kit.progress import Progress
from twd.kit.tasks import heard, in_a_thread_of_its_own, soon
from twd.ring.driver import RingDriver
from twd.ring.links import SWITCH_S, ProbePace
from twd.ring.trial import pipe_of
from twd.ring.trust import RingTrust, make_identity, ring_nonce
from twd.ring.wiring import wirings
from twd.settings.model import Settings
from twd.settings.paths import path_of
from twd.speculator.targets.decode_watchdog import until_known_s
from twd.speculator.targets.loaded import Load, LoadedModel
from twd.speculator.targets.pool_core import shown_piece
from twd.speculator.targets.ring_model import RingModel, load_ring
from twd.speculator.targets.source import TargetHost, TargetSource
from twd.wire.base import Event, InstanceId, ModelId, NodeId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.placement import Way
from twd.wire.ring import RingWired, StageAnswered, StageGone, StageReady, StateFormat
from twd.wire.service import Health

AGAIN_S: Final = 0.05
"""Seconds before the next try after a ring could not be made; doubled after each failure, up to a second."""
LOOK_S: Final = 1.0
WIRE_S: Final = 0.3
"""Seconds to wait for a stage's answer: a living stage is faster, one that just died may never answer. Doubled after
each try."""
WIRE_MOST_S: Final = 2.4
JOIN_S: Final = 5.0
CHANGE_S: Final = 10.0
"""A better place waits at most this many seconds for a moment without jobs."""
PASS_S: Final = 3.0
PASS_FACTOR: Final = 8.0
"""A pass that takes this many times longer than expected, plus `PASS_S` seconds, counts as hung."""
GIVE_UP_S: Final = 60.0
"""After this many seconds without a working ring this process ends: another one takes the stages that are there
then."""


class StageFinder:
    """Finds the stages for a ring."""

    place = ""
    """What the ring serves of a pool: a model, or one of its replicas."""
    hears: tuple[type[Event], ...] = ()

    async def open(self, bus: Bus) -> None:
        """Prepare; called before everything else."""

    @abstractmethod
    async def stages(self, file_hash: str) -> Sequence[StageReady]:
        """Returns the stages of this file that should form the ring now, in ring order; raises TwdError that says what
        is missing."""

    def lost(self, stage: InstanceId, reason: str) -> None:
        """Record a stage that could not be reached, or that broke the ring."""

    def reached(self, stages: Sequence[StageReady]) -> None:
        """Record that these stages form a ring now, whatever was recorded of them before."""

    def concerns(self, event: Event) -> bool:
        """Whether one of the events of `hears` may change which stages form the ring."""
        return False

    async def better(self, file_hash: str) -> str:
        """Returns in words where the model should go from where it is, if all is there; empty: nowhere."""
        return ""


class RingSource(TargetSource):
    """A model over a ring of stages."""

    def __init__(self, settings: Settings, model: ModelId, finder: StageFinder) -> None:
        self._settings = settings
        self._finder = finder
        self._path = path_of(settings.models[model].path)
        self._file_hash = ""
        self._stages: Sequence[StageReady] = ()
        self._home: RingDriver | None = None
        self._rings = 0
        self._lost_at: float | None = None
        self._better_since: float | None = None
        self._news = asyncio.Event()
        """Set when something may have changed since the last search for stages."""
        self._stirred = asyncio.Event()
        """Set when there may be a better place."""
        self.pace = ProbePace()

    @property
    def hears(self) -> tuple[type[Event], ...]:
        """The events that may change which stages there are."""
        return (StageReady, StageGone, *self._finder.hears)

    async def open(self, host: TargetHost) -> None:
        """Shorten the thread switch interval, because links have threads of their own that must run soon."""
        sys.setswitchinterval(SWITCH_S)
        self._host = host
        self._identity = make_identity(host.instance)
        await self._finder.open(host.bus)

    # -- a ring ----------------------------------------------------------------------------------

    async def acquire(self) -> Load:
        """Wait until a ring is connected and has passed its trial; a ring that breaks meanwhile is made again."""
        loop = asyncio.get_running_loop()
        self._file_hash = await asyncio.to_thread(_hash_of, self._path)

        def progress(share: float, stage: str) -> None:
            soon(loop, self._host.tell_progress, share, stage)

        while True:
            home = await self._find_ring()
            try:
                model = await in_a_thread_of_its_own(lambda home=home: self._load_over(home, progress))  # type: ignore[misc]
            except TwdError as error:
                home.close(error)
                if home.over is None or error.code is not FailureCode.WORKER_LOST:
                    raise
                self._wait_for(str(error))
            else:
                return lambda _: model

    def _load_over(self, home: RingDriver, progress: Progress) -> LoadedModel:
        return load_ring(self._host.model, self._settings, home, self._stages, self._host.ctx.ids.seed, progress)

    def serves(self, loaded: LoadedModel) -> None:
        """The ring may have ended while the model was opened."""
        if self._home is not None and self._home.over is not None:
            self._ring_over(self._home, self._home.over)

    async def _find_ring(self) -> RingDriver:
        pause_s, wire_s = AGAIN_S, WIRE_S
        while True:
            self._news.clear()
            stages: Sequence[StageReady] = ()
            try:
                stages = await self._finder.stages(self._file_hash)
                home = await self._join(stages, wire_s)
            except (TwdError, BusError) as error:
                self._wait_for(str(error))
                wire_s = min(WIRE_MOST_S, 2 * wire_s) if stages else wire_s
                told = await heard(self._news, pause_s if stages else LOOK_S)
                pause_s = AGAIN_S if told else min(LOOK_S, 2 * pause_s)
                continue
            self._finder.reached(stages)
            self._stages, self._home = stages, home
            return home

    def hear(self, event: Event) -> None:
        """Look again: another ring may be possible now, or needed."""
        own = isinstance(event, StageReady | StageGone) and event.model == self._host.model
        if own or self._finder.concerns(event):
            self._news.set()
            self._stirred.set()

    def rests(self) -> None:
        """A better place may have waited for this moment."""
        if self._better_since is not None:
            self._stirred.set()

    async def _join(self, stages: Sequence[StageReady], wire_s: float) -> RingDriver:
        """Tell the stages their places in the ring and open the links. Returns the connected ring."""
        pool, own = self._settings.pool, self._host.instance
        self._rings += 1
        ring = f"{own}.{self._rings}.{self._host.clock.wall_ms()}"
        trust = RingTrust(ring, ring_nonce(), pool.key, not pool.trusted_lan)
        told = wirings(stages, trust, own, self._identity.certificate, StateFormat(pool.states))
        answers = await asyncio.gather(*(self._wire(one, wire_s) for one in told))
        for stage, failure in zip(stages, answers, strict=True):
            if failure is not None:
                self._finder.lost(stage.stage, failure.message)
                raise TwdError(failure.code, f"stage {stage.stage} did not take its place: {failure.message}")
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + JOIN_S
        home = await in_a_thread_of_its_own(
            lambda: RingDriver.connect(stages, trust, self._identity, own, deadline, self.pace)
        )
        home.ended = lambda reason: soon(loop, self._ring_over, home, reason)
        if home.over is not None:
            raise home.over
        return home

    async def _wire(self, wired: RingWired, answer_s: float) -> Failure | None:
        try:
            answer = await self._host.ask(wired, timeout_s=answer_s)
        except BusError as error:
            return Failure(code=error.code, message=str(error))
        if not isinstance(answer, StageAnswered):
            return Failure(code=FailureCode.BACKEND_BROKEN, message=f"{wired.stage} answered something else")
        return answer.failure

    def _wait_for(self, what: str) -> None:
        self._host.tell_waiting(f"waits for its ring: {what}"[:1000])

    # -- its loss --------------------------------------------------------------------------------

    def _ring_over(self, home: RingDriver, reason: TwdError) -> None:
        host = self._host
        if not isinstance(host.loaded, RingModel) or self._home is not home or self._lost_at is not None:
            return
        if host.stopping:
            return
        self._lost_at = host.clock.now()
        host.health = Health.DEGRADED
        host.tasks.start("rewire", self.replace(str(reason)))

    async def replace(self, why: str) -> None:
        """Put another ring under the loaded model; sessions stay and go on. Raises TwdError if there is none for long,
        and the process ends."""
        self._host.log.warning("%s; its %d sessions wait for another ring", why, self._host.jobs)
        assert isinstance(self._host.loaded, RingModel)
        await self._rewire(self._host.loaded)

    async def _rewire(self, loaded: RingModel) -> None:
        assert self._lost_at is not None
        host = self._host
        before, until = _cut(self._stages), self._lost_at + GIVE_UP_S
        while True:
            try:
                home = await asyncio.wait_for(self._find_ring(), max(0.0, until - host.clock.now()))
            except TimeoutError:
                message = f"no ring for {GIVE_UP_S:g} s: {host.note}"
                raise TwdError(FailureCode.WORKER_LOST, message) from None
            try:
                await in_a_thread_of_its_own(lambda home=home: loaded.recheck(home, self._stages))  # type: ignore[misc]
                same = _cut(self._stages) == before
                loaded.target.rewire(home, None if same else pipe_of(self._stages, home.bounds.credits))
            except TwdError as error:
                home.close(error)
                if error.code is FailureCode.MODEL_LOAD:
                    raise  # it computes something else, and would do so again
                self._wait_for(str(error))
                await asyncio.sleep(2 * AGAIN_S)
                continue
            break
        took, self._lost_at = host.clock.now() - self._lost_at, None
        host.health, host.note = Health.OK, f"rewired after {took:.2f} s"
        host.log.info("a ring of %d stages stands again after %.2f s", len(self._stages), took)
        await host.renew_lease()
        if home.over is not None:
            self._ring_over(home, home.over)

    def tick(self) -> None:
        """Check whether the ring hangs although its links are alive."""
        if not isinstance(self._host.loaded, RingModel) or self._lost_at is not None:
            return
        target = self._host.loaded.target
        waited_s, familiar = target.oldest(time.monotonic())
        usual = PASS_S + PASS_FACTOR * target.pipe.trip_ms(target.window_max) / 1000
        limit = until_known_s(usual, familiar=familiar)
        if waited_s > limit:
            target.home.close(TwdError(FailureCode.WORKER_LOST, f"a pass is under way for over {limit:.1f} s"))

    # -- another place ---------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look for a better place as long as the speculator runs."""
        while True:
            self._stirred.clear()
            await self._look_for_better()
            await heard(self._stirred, LOOK_S)

    async def _look_for_better(self) -> None:
        """Go to other stages when they are there, and no job runs or that has waited long enough."""
        if self._home is None or self._lost_at is not None:
            return
        try:
            where = await self._finder.better(self._file_hash)
        except BusError as error:
            self._host.log.warning("the registry could not be read: %s", error)
            return
        at = self._host.clock.now()
        since = self._better_since if self._better_since is not None else at
        if where and (not self._host.jobs or at - since > CHANGE_S):
            self._better_since = None
            self._home.close(TwdError(FailureCode.WORKER_LOST, f"the model goes elsewhere: {where}"))
        else:
            self._better_since = since if where else None

    # -- what others see -------------------------------------------------------------------------

    def facts(self, facts: SpeculatorFacts) -> SpeculatorFacts:
        """Returns the facts of any speculator, and the ring's stages and links."""
        pool = [shown_piece(stage.node, stage) for stage in self._stages]
        told = replace(facts, engine="ring", place=self._finder.place, pool=pool)
        if self._home is not None:
            hops = zip(self._stages, self._home.hops(), strict=False)
            ways = [Way(node=stage.node, rtt_ms=hop.rtt_min_ms, bandwidth=hop.bandwidth) for stage, hop in hops]
            told = replace(told, ways=ways)
        if not isinstance(self._host.loaded, RingModel):
            return told
        target, pipe = self._host.loaded.target, self._host.loaded.target.pipe
        return replace(
            told,
            links=target.home.hops(),
            ring=target.generation_number,
            step_ms=round(pipe.step_ms(1), 3),
            trip_ms=round(pipe.trip_ms(1), 3),
            waste=round(target.rows_sent / max(1, target.rows_kept), 3),
        )


def _cut(stages: Sequence[StageReady]) -> list[tuple[NodeId, int, int]]:
    """Returns which machine holds which layers."""
    return [(stage.node, stage.first, stage.end) for stage in stages]


def _hash_of(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}; the machine that serves a model needs a copy, too"
        raise TwdError(FailureCode.MODEL_NOT_FOUND, text) from error
