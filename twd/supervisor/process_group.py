"""The processes of an installation: some start after others, some are asked over HTTP whether they work."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from twd.kit.tasks import TaskGroup
from twd.process.health import ask_health
from twd.process.process_table import ProcessRow, ProcessTable, StartPhase
from twd.process.supervisor import ChildProcess, ProcessSpec, ProcessState, Supervisor

HEALTH_S: Final = 0.3
HEALTH_AGAIN_S: Final = 5.0
DRAIN_S: Final = 30.0


class ProcessGroup:
    """A supervisor's processes with their rows in the process table."""

    def __init__(
        self,
        table: ProcessTable,
        tasks: TaskGroup,
        supervise: Callable[[Sequence[ProcessSpec]], Supervisor],
        changed: Callable[[], None],
        wall_ms: Callable[[], int],
    ) -> None:
        self._table = table
        self._tasks = tasks
        self._changed = changed
        self._wall_ms = wall_ms
        self._later: list[ProcessSpec] = []
        self.supervisor = supervise(())

    def start(self, specs: Sequence[ProcessSpec]) -> None:
        """Start every process that need not wait for another one."""
        self.supervisor.start()
        for spec in specs:
            self.take(spec)

    def take(self, spec: ProcessSpec) -> None:
        """Add a process; it starts now, or as soon as the process works that it waits for."""
        self._table.rows[spec.name] = ProcessRow(
            name=spec.name, leased=not spec.health_url, node=spec.node, need=spec.need
        )
        leader = self._table.rows.get(spec.after)
        if leader is None or leader.stage is StartPhase.READY:
            self.supervisor.add(spec)
        else:
            self._table.rows[spec.name].note = f"waits for {spec.after}"
            self._later.append(spec)

    async def end(self, names: Sequence[str]) -> None:
        """End processes for good, and remove them from the table."""
        self._later = [spec for spec in self._later if spec.name not in names]
        for name in names:
            if name in self._table.rows:
                self._table.rows[name].stage = StartPhase.DRAINING
        await asyncio.gather(*(self.supervisor.remove(name, DRAIN_S) for name in names))
        for name in names:
            self._table.rows.pop(name, None)
        self._changed()

    def pids(self, names: Sequence[str]) -> list[int]:
        """Return the process ids of those of these names that run now."""
        children = [self.supervisor.children.get(name) for name in names]
        return [child.pid for child in children if child is not None and child.state is ProcessState.RUNNING]

    def started(self, child: ChildProcess) -> None:
        """A process was started; if it has no lease, watch its health over HTTP."""
        if child.spec.health_url:
            self._tasks.keep(f"health of {child.spec.name}", partial(self._watch, child))

    async def _watch(self, child: ChildProcess) -> None:
        """Ask often until it works, and from time to time afterwards."""
        pid = child.pid
        while child.pid == pid and child.state is ProcessState.RUNNING and child.spec.name in self._table.rows:
            works, note = await ask_health(child.spec.health_url)
            if child.pid != pid or child.spec.name not in self._table.rows:
                return
            self._judge(child.spec.name, works, note)
            await asyncio.sleep(HEALTH_AGAIN_S if works else HEALTH_S)

    def _judge(self, name: str, works: bool, note: str) -> None:
        row = self._table.rows[name]
        if works:
            self._table.works(name, self._wall_ms())
            row.note = ""
            self._release(name)
        else:
            row.stage, row.note = StartPhase.DEGRADED if row.ready_ms else StartPhase.LOADING, note
        self._changed()

    def _release(self, leader: str) -> None:
        """Start those that waited for this one."""
        ready = [spec for spec in self._later if spec.after == leader]
        self._later = [spec for spec in self._later if spec.after != leader]
        for spec in ready:
            self._table.rows[spec.name].note = ""
            self.supervisor.add(spec)
