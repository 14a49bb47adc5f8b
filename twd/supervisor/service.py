"""The supervisor on the bus: publishes how processes end, and reads from their leases how far they have started."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from twd.bus.base import BusError, LeaseEntry, Leases
from twd.kit.effects import Do
from twd.kit.errors import internal
from twd.kit.instance_tracker import InstanceTracker
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Reply, Service, ServiceContext
from twd.kit.tasks import heard
from twd.process.hang import Unheard
from twd.process.hung_log import HungLog
from twd.process.process_table import ProcessTable, StartPhase
from twd.process.supervisor import ProcessExit
from twd.supervisor.first_trials import FirstTrials
from twd.wire.base import Event, InstanceId
from twd.wire.draft import DrafterAttached, DrafterChecked, DrafterDetached
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.leases.machine import SupervisorFacts
from twd.wire.life import ChangeAnswered, ChangeTold, ModelUnwanted, ModelWanted, SwapWanted
from twd.wire.model import ModelFailed, ModelLoading, ModelReady
from twd.wire.node import MachineRemoved
from twd.wire.routes import ROUTE_OF
from twd.wire.service import Health, ServiceExited, ServiceStarted, ServiceStopped, read_lease

LOOK_WHILE_STARTING_S: Final = 1.0
LOOK_S: Final = 5.0
LOOK_OUT: Final = "look-out"

Wish = ModelWanted | ModelUnwanted | SwapWanted
WISHES: Final = (ModelWanted, ModelUnwanted, SwapWanted)


class ChangesModels(Protocol):
    """Something that can change which models are served."""

    @property
    def changed(self) -> bool:
        """Whether other models are served than the settings say."""
        ...

    @property
    def models(self) -> list[str]:
        """Names of the models that are served, or are loading."""
        ...

    @property
    def default(self) -> str:
        """The name of the model that requests for `default` get."""
        ...

    async def begin(self, wish: Wish) -> ChangeAnswered:
        """Check a request and begin to carry it out; raises TwdError where that is not possible."""
        ...


class SupervisorService(Service):
    """Publishes ServiceExited, clears the leases of dead processes, keeps the board."""

    name = "supervisor"
    reads = (
        ServiceStarted,
        ServiceStopped,
        ModelLoading,
        ModelReady,
        ModelFailed,
        DrafterAttached,
        DrafterChecked,
        DrafterDetached,
        MachineRemoved,
        *WISHES,
    )
    writes = (ServiceExited, ChangeAnswered, ChangeTold)

    def __init__(
        self,
        ctx: ServiceContext,
        table: ProcessTable,
        changed: Callable[[], None],
        life: ChangesModels | None = None,
        hung: HungLog | None = None,
        end_hung: Callable[[str, str], None] | None = None,
        removed: Callable[[], None] | None = None,
        trials: FirstTrials | None = None,
    ) -> None:
        """`hung`: what was recorded of hung processes before this service began. `end_hung` ends a process, given its
        name and why. `removed`: this machine does not belong to the installation any more. `trials`: told which
        drafters attached and which were measured."""
        super().__init__(ctx)
        self._removed = removed
        self._trials = trials or FirstTrials(expected=False)
        self._life = life
        self._table = table
        self._changed = changed
        self._instances = InstanceTracker()
        self._registry: Leases | None = None
        self._news = asyncio.Event()
        self._problems: dict[str, str] = {}
        self._end_hung = end_hung
        self._unheard = Unheard()
        self.hung = HungLog() if hung is None else hung

    async def setup(self) -> None:
        """Open the registry and keep looking into it."""
        self._registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self.tasks.keep(LOOK_OUT, self._keep_looking, told=self._look_failed)

    def pattern(self, event_type: type[Event]) -> str:
        """Subscribe only to requests for this machine."""
        if event_type in WISHES:
            return ROUTE_OF[event_type].pattern_for(node=self.ctx.node)
        return super().pattern(event_type)

    def facts(self) -> SupervisorFacts:
        """Return the facts that this machine's edge needs; as part of the lease, they also reach an edge that missed a
        message."""
        hung = self.hung.known
        if self._life is None or not self._life.changed:
            return SupervisorFacts(hung=hung)
        return SupervisorFacts(hung=hung, models=self._life.models, default_model=self._life.default)

    def ails(self, what: str, problem: str) -> None:
        """Set what keeps one part of the supervisor from working; an empty `problem` clears it."""
        self._problems[what] = problem
        self.note = "; ".join(filter(None, self._problems.values()))
        if self.health in (Health.OK, Health.DEGRADED):
            self.health = Health.DEGRADED if self.note else Health.OK

    async def entries(self) -> list[LeaseEntry]:
        """Return the entries of the registry now."""
        return await self._registry.entries() if self._registry is not None else []

    async def _keep_looking(self) -> None:
        while True:
            self._news.clear()
            await self._look()
            self.ails(LOOK_OUT, "")
            await heard(self._news, LOOK_S if self._table.ready else LOOK_WHILE_STARTING_S)

    def _look_failed(self, name: str, error: BaseException) -> None:
        """Report a fault of the look-out. The look-out starts again; the processes go on."""
        self.tell_fault(error, name)
        self.ails(LOOK_OUT, f"a fault in the {name}: {error!r}; it begins anew")

    async def _look(self) -> None:
        assert self._registry is not None
        try:
            entries = await self._registry.entries()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        leases = [lease for entry in entries if (lease := read_lease(entry.value, entry.key)) is not None]
        nodes = {self.ctx.node, *(row.node for row in self._table.rows.values())}
        here = [lease for lease in leases if lease.node in nodes]
        if self._table.see(here, self.clock.wall_ms()):
            self._changed()
        self._look_for_unheard()

    def _look_for_unheard(self) -> None:
        rows = [row for row in self._table.rows.values() if row.leased]
        for name in self._unheard.look([row.name for row in rows if row.stage is StartPhase.SILENT], len(rows)):
            if self._end_hung is not None:
                self._end_hung(name, "it has not been heard on the bus since its lease ran out")

    def tell_exit(self, gone: ProcessExit) -> None:
        """Publish the end of a process, and delete its lease."""
        event = ServiceExited(
            service=gone.name,
            node=self.ctx.node,
            pid=gone.pid,
            exit_code=gone.code,
            restarts=gone.restarts,
            retry_in_ms=int(gone.retry_in_s * 1000),
            last_words=gone.last_words[-4096:],
            hung=gone.hung,
        )
        self.hung.note(gone.name, gone.hung, self.clock.wall_ms())
        instance = self._instances.hear(event)
        self.emit(event)
        if instance is not None and self._registry is not None and not self.ended.is_set():
            self.tasks.start("clear", self._clear(self._registry, instance))

    async def _clear(self, registry: Leases, instance: InstanceId) -> None:
        try:
            await registry.delete(instance)
        except BusError as error:
            self.log.warning("the lease of %s is left to age away: %s", instance, error)

    # -- wishes --------------------------------------------------------------------------------

    def on_model_wanted(self, event: ModelWanted, reply: Reply) -> Effects:
        """Serve one more model."""
        return self._wished(event, reply)

    def on_model_unwanted(self, event: ModelUnwanted, reply: Reply) -> Effects:
        """Serve one model less."""
        return self._wished(event, reply)

    def on_swap_wanted(self, event: SwapWanted, reply: Reply) -> Effects:
        """Serve one model in place of another."""
        return self._wished(event, reply)

    def _wished(self, wish: Wish, reply: Reply) -> Effects:
        return [Do(f"answer {wish.id}", lambda: self._answer(wish, reply))]

    async def _answer(self, wish: Wish, reply: Reply) -> None:
        try:
            if self._life is None:
                raise TwdError(FailureCode.UNSUPPORTED, "this supervisor changes no models")
            answer = await self._life.begin(wish)
        except TwdError as error:
            answer = ChangeAnswered(node=self.ctx.node, failure=error.failure)
        except OSError as error:
            problem = Failure(code=FailureCode.MODEL_LOAD, message=f"the file cannot be read: {error}")
            answer = ChangeAnswered(node=self.ctx.node, failure=problem)
        except Exception as error:  # noqa: BLE001 - reported; the asker waits for an answer
            self.tell_fault(error, type(wish).__name__)
            answer = ChangeAnswered(node=self.ctx.node, failure=internal(error))
        reply(answer)

    # -- events --------------------------------------------------------------------------------

    def _look_now(self, event: Event) -> Effects:
        self._instances.hear(event)
        self._news.set()
        return None

    def on_service_started(self, event: ServiceStarted) -> Effects:
        """A service started, here or elsewhere: read the registry now."""
        return self._look_now(event)

    def on_service_stopped(self, event: ServiceStopped) -> Effects:
        """A service ended in good order: read the registry now."""
        return self._look_now(event)

    def on_model_loading(self, event: ModelLoading) -> Effects:
        """A model loads: show its progress."""
        self._table.loading(event.model, event.progress, event.stage)
        self._changed()
        return None

    def on_model_ready(self, event: ModelReady) -> Effects:
        """A model is ready: read the registry now."""
        return self._look_now(event)

    def on_model_failed(self, event: ModelFailed) -> Effects:
        """A model failed: read the registry now."""
        return self._look_now(event)

    def on_machine_removed(self, event: MachineRemoved) -> Effects:
        """A machine was removed: if it is this one, all ends here."""
        if event.node == self.ctx.node and self._removed is not None:
            self._removed()
        return None

    def on_drafter_attached(self, event: DrafterAttached) -> Effects:
        """A drafter is attached: read the registry now."""
        self._trials.attached(event.drafter)
        return self._look_now(event)

    def on_drafter_checked(self, event: DrafterChecked) -> Effects:
        """A drafter was measured."""
        self._trials.checked(event.drafter)
        return None

    def on_drafter_detached(self, event: DrafterDetached) -> Effects:
        """A drafter left."""
        self._trials.left(event.drafter)
        return None
