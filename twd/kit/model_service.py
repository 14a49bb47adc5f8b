"""Base class of services that need a loaded model. They start at once and try to load until it works."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from twd.kit.load_retry import until_loaded
from twd.kit.progress import Progress
from twd.kit.service import Service, ServiceContext
from twd.kit.tasks import soon
from twd.wire.base import ModelId
from twd.wire.failures import TwdError
from twd.wire.model import ModelFailed
from twd.wire.service import Health

T = TypeVar("T")

STEP: Final = 0.05
"""Progress is published only in steps of at least this share."""


class ModelService(Service, Generic[T]):
    """Loads `T` on another thread; a failure is published and the load is tried again."""

    def __init__(self, ctx: ServiceContext, model: ModelId) -> None:
        super().__init__(ctx)
        self.model = model
        self.settled = asyncio.Event()
        """Set when the first try to load has ended, with or without success."""
        self._loading: asyncio.Task[None] | None = None
        self._told_share = -1.0

    @abstractmethod
    async def loader(self) -> Callable[[Progress], T]:
        """Return the function that loads the model, once everything that it needs is there."""

    @abstractmethod
    async def open_for_work(self, loaded: T) -> None:
        """Called when the model is loaded; must call `is_ready` and tell others."""

    async def start(self) -> None:
        """Start the service, and load the model in the background."""
        await super().start()
        if self.ended.is_set():
            return
        self.health = Health.STARTING
        self._loading = self.tasks.start("load", self._load_model())

    async def _load_model(self) -> None:
        loop = asyncio.get_running_loop()

        def progress(share: float, stage: str) -> None:
            soon(loop, self.tell_progress, share, stage)

        async def find() -> Callable[[], T]:
            load = await self.loader()
            return lambda: load(progress)

        await self.open_for_work(await until_loaded(find, self.cannot_load, self.clock))

    def is_ready(self, note: str) -> None:
        """Mark this service as working."""
        self.health, self.note = Health.OK, note
        self.settled.set()

    def tell_progress(self, share: float, stage: str) -> None:
        """Report that this share (0 to 1) of the model is loaded."""
        if self.health is Health.DEGRADED:
            if not share:
                return  # a new try has read nothing yet, so the note still shows the last failure
            self.health = Health.STARTING
        if share < 1.0 and share - self._told_share < STEP and stage in self.note:
            return
        self._told_share = share
        self.note = f"{stage} {share:.0%}"
        self.told_progress(min(1.0, share), stage)

    def told_progress(self, share: float, stage: str) -> None:
        """Called when the note has changed."""

    def cannot_load(self, error: TwdError, new: bool) -> None:
        """Report that a try failed; `new`: for another reason than the try before."""
        self.health, self.note = Health.DEGRADED, error.failure.with_advice
        self._told_share = -1.0
        self.settled.set()
        if new:
            self.log.error("%s cannot be loaded: %s (%s); tried again", self.model, error, error.failure.advice)
            self.emit(ModelFailed(model=self.model, node=self.ctx.node, failure=error.failure))
