"""Where a speculator gets its target from: the file here, a ring, RPC workers, or another program's server."""

import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from twd.bus.base import Bus
from twd.kit.clock import Clock
from twd.kit.service import ServiceContext
from twd.kit.tasks import TaskGroup
from twd.process.core_registry import OwnCores
from twd.speculator.runner import Runner
from twd.speculator.targets.loaded import Load, LoadedModel
from twd.speculator.targets.memory_care import ReclaimedMemory
from twd.wire.base import Event, InstanceId, ModelId
from twd.wire.codec import Rejected
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.service import Health


class TargetHost(Protocol):
    """What a source may use of the speculator that it works for."""

    name: ClassVar[str]
    model: ModelId
    instance: InstanceId
    ctx: ServiceContext
    bus: Bus
    clock: Clock
    log: logging.Logger
    tasks: TaskGroup
    health: Health
    note: str
    loaded: LoadedModel | None

    @property
    def engine(self) -> Runner | None:
        """The thread that computes; None until the model is loaded."""
        ...

    @property
    def jobs(self) -> int:
        """How many jobs are in hand."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether the service ends."""
        ...

    def emit(self, event: Event) -> None:
        """Publish an event."""
        ...

    async def ask(self, event: Event, *, timeout_s: float = 5.0) -> Event | Rejected:
        """Send a request, and return its answer; raises BusError if there is none."""
        ...

    async def renew_lease(self) -> None:
        """Publish the facts again."""
        ...

    def tell_progress(self, share: float, stage: str) -> None:
        """Publish which share of the model is loaded."""
        ...

    def tell_waiting(self, note: str) -> None:
        """Publish what the model waits for."""
        ...


class TargetSource:
    """Acquires a target for a speculator, watches it, and replaces it when it is lost or has a better place."""

    cores: OwnCores | None = None
    """This process in the core registry of the computer; None: this process computes nothing itself."""
    reclaim: Callable[[], ReclaimedMemory] | None = None
    """Frees memory that the model does not need; None: its weights are not in this process."""
    watched: ClassVar[bool] = False
    """Whether `watch` sees passes that hang; otherwise the speculator compares each pass with its usual time."""

    @property
    def hears(self) -> tuple[type[Event], ...]:
        """The events that may change what `acquire` finds."""
        return ()

    async def open(self, host: TargetHost) -> None:
        """Prepare; called before everything else."""

    @abstractmethod
    async def acquire(self) -> Load:
        """Return the function that loads the model, when everything that it needs is there."""

    def failed(self) -> None:
        """The load failed; `acquire` is called again."""

    def serves(self, loaded: LoadedModel) -> None:
        """The model is loaded and takes jobs from now on."""

    async def watch(self) -> None:
        """Look after the parts of the target; runs as long as the speculator, and calls `replace`."""

    async def replace(self, why: str) -> None:
        """Give the speculator another target for the one that is lost, or end the process where only
        a new one can load again."""

    # -- what the speculator tells ---------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """One of the events of `hears` came."""

    def tick(self) -> None:
        """A second has passed."""

    def progressed(self) -> None:
        """The load goes on."""

    def accepted(self, tokens: int) -> None:
        """So many tokens were accepted."""

    def rests(self) -> None:
        """No job is in hand."""

    def facts(self, facts: SpeculatorFacts) -> SpeculatorFacts:
        """Return the facts of the speculator, and what the source adds to them."""
        return facts


class ReadySource(TargetSource):
    """A target that needs nothing but to be loaded: the file is here, or another program's server has the model."""

    def __init__(
        self, load: Load, reclaim: Callable[[], ReclaimedMemory] | None = None, cores: OwnCores | None = None
    ) -> None:
        self._load = load
        self.reclaim = reclaim
        self.cores = cores

    async def acquire(self) -> Load:
        """Return the function that loads the model."""
        return self._load
