"""The supervisor service of an installation: started again after a fault, and told what happens while it is there."""

from collections.abc import Callable

from twd.bus.base import LeaseEntry
from twd.kit.service import ServiceContext
from twd.process.supervisor import ProcessExit
from twd.supervisor.service import SupervisorService
from twd.wire.life import ChangeTold


class KeptSupervisorService:
    """One supervisor service after another, for the same processes."""

    def __init__(self, make: Callable[[ServiceContext], SupervisorService]) -> None:
        self.current: SupervisorService | None = None
        self._make = make
        self._ailments: dict[str, str] = {}

    async def start(self, ctx: ServiceContext) -> SupervisorService:
        """Start a new one; it knows what ails the installation."""
        service = self.current = self._make(ctx)
        try:
            await service.start()
        except BaseException:
            await service.stop()
            raise
        for what, problem in self._ailments.items():
            service.ails(what, problem)
        return service

    async def oversee(self, ctx: ServiceContext) -> None:
        """Wait for the service to end, and raise its fault. Called again, it starts a new one."""
        service = self.current
        if service is None or service.ended.is_set():
            service = await self.start(ctx)
        await service.ended.wait()
        if service.fault is not None:
            raise service.fault

    async def stop(self) -> None:
        """Stop the one that runs."""
        if self.current is not None:
            await self.current.stop()

    # -- what happens ------------------------------------------------------------------------------

    def ails(self, what: str, problem: str) -> None:
        """Report a problem of the installation; empty when it is over."""
        self._ailments[what] = problem
        if self.current is not None:
            self.current.ails(what, problem)

    def tell_exit(self, gone: ProcessExit) -> None:
        """Publish that a process ended."""
        if self.current is not None:
            self.current.tell_exit(gone)

    def tell_fault(self, error: BaseException, task: str) -> None:
        """Publish a fault of the supervisor itself."""
        if self.current is not None:
            self.current.tell_fault(error, task)

    def emit(self, told: ChangeTold) -> None:
        """Publish how a change of models goes on."""
        if self.current is not None:
            self.current.emit(told)

    async def entries(self) -> list[LeaseEntry]:
        """Return all leases; none while there is no service."""
        return await self.current.entries() if self.current is not None else []
