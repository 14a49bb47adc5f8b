"""One running installation: holds its state folder, starts the broker and the services, records its state for other
commands, and ends everything in order."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import twd
from twd.bus.broker import EmbeddedBroker
from twd.kit.clock import SystemClock
from twd.kit.connect import address_of, connect
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.kit.tasks import TaskGroup, cancel, every
from twd.membership.hosting import run_membership
from twd.net.addresses import is_loopback
from twd.process import platform
from twd.process.fork_server import ForkServer, ForkServerHandle
from twd.process.hang import policy_of
from twd.process.home import RunningInstance, StateFolder
from twd.process.hung_log import HungLog
from twd.process.log_files import LogFile
from twd.process.notify import NotifySocket
from twd.process.process_table import ProcessRow, ProcessTable, StartPhase, Wait
from twd.process.run_service import StopRequests, unless
from twd.process.supervisor import ChildProcess, ProcessExit, ProcessSpec, Supervisor
from twd.settings.model import Settings
from twd.supervisor.first_trials import FirstTrials
from twd.supervisor.guard import NOBODY, Guard
from twd.supervisor.installation.kept_service import KeptSupervisorService
from twd.supervisor.installation.own_broker import BROKER, BROKER_WAIT_S, OwnBroker
from twd.supervisor.installation.state_files import StateFiles
from twd.supervisor.model_changes import serving
from twd.supervisor.model_life import ModelLife
from twd.supervisor.outside_broker import outside_broker
from twd.supervisor.process_group import DRAIN_S, ProcessGroup
from twd.supervisor.processes import served_by
from twd.supervisor.service import SupervisorService
from twd.supervisor.service_manager.notifier import ServiceManagerNotifier
from twd.supervisor.service_manager.reload import SettingsReload
from twd.supervisor.service_manager.reload_requests import ReloadRequests
from twd.supervisor.start_display import StartSnapshot, StartView
from twd.wire.base import NodeId
from twd.wire.leases.machine import AgentFacts, SwarmFacts
from twd.wire.leases.others import EdgeFacts
from twd.wire.life import ChangeTold

MEASURING_ENDS_S: Final = 2.0
MEMBERSHIP_ENDS_S: Final = 5.0
OWN_LOG: Final = "supervisor"
ROTATE_S: Final = 60.0
DISK: Final = "disk"
FAULT: Final = "fault"
FAULT_TOLD_S: Final = 600.0
"""Seconds that a fault of the supervisor itself stays in the status after everything survived it."""

log = logging.getLogger("twd.up")


class Installation:
    """What `twd up` runs until it is told to end."""

    def __init__(
        self,
        settings: Settings,
        home: StateFolder,
        node: NodeId,
        specs: Sequence[ProcessSpec],
        view: StartView,
        measured: bool = False,
        forks: ForkServerHandle | None = None,
        wait: Wait = Wait.SOME,
        guard: Guard = NOBODY,
        service_manager: NotifySocket | None = None,
        read_again: Callable[[], Settings] | None = None,
    ) -> None:
        """`measured`: when all is ready, measure what drafts gain, and report it. `forks`: the fork server for
        processes of twd. `read_again` reads the settings again, for a reload."""
        self._settings = settings
        self._home = home
        self._node = node
        self._specs = specs
        self._view = view
        self._measured = measured
        self._clock = SystemClock()
        self._guard = guard
        rows = {spec.name: ProcessRow(name=spec.name, node=spec.node, need=spec.need) for spec in specs}
        self._table = ProcessTable(rows, self._clock.wall_ms(), wait=wait)
        self._addresses: dict[str, str] = {}
        self._ready_ms = 0
        self._exit_code = ExitCode.OK
        self._stop = StopRequests(self._kill)
        self._begin_records()
        self._begin_processes(forks)
        self._begin_service_manager(service_manager, read_again)

    def _begin_records(self) -> None:
        self._hung = HungLog()
        self._hung.note(OWN_LOG, self._guard.before, self._clock.wall_ms())
        self._note = ""
        self._fault = ""
        """The last fault of the supervisor itself; empty again after FAULT_TOLD_S."""
        self._fault_at = 0.0
        self._files = StateFiles(self._home, self._disk_ails)
        self._log_file = LogFile(self._home.logs, OWN_LOG)
        self._born = platform.born(os.getpid()) or 0.0

    def _begin_processes(self, forks: ForkServerHandle | None) -> None:
        self._tasks = TaskGroup("up", self._faulted)
        hang = policy_of(self._settings.hang_s)
        self._fork_server = ForkServer(forks, self._files.environment(), self._faulted, hang)
        self._broker: OwnBroker | None = None
        self._process_group: ProcessGroup | None = None
        self._life: ModelLife | None = None
        self._opening: asyncio.Task[None] | None = None
        self._trials = FirstTrials(any(not one.head for one in self._settings.drafters))
        self._membership: asyncio.Task[None] | None = None
        self._service = KeptSupervisorService(self._make_service)

    def _begin_service_manager(
        self, service_manager: NotifySocket | None, read_again: Callable[[], Settings] | None
    ) -> None:
        self._manager = ServiceManagerNotifier(
            service_manager, self._table, lambda: self._addresses.get("api", ""), self._give_up
        )
        self._reload = ReloadRequests(
            SettingsReload(read_again, self._settings, self._node) if read_again and self._manager.present else None,
            self._manager,
            self._tell,
        )

    async def run(self, broker: EmbeddedBroker | None) -> ExitCode:
        """Start everything, keep it alive, end it in order. The caller holds the lock of the state folder."""
        self._stop.watch()
        self._reload.watch()
        self._tasks.keep("tell the service manager", self._manager.keep_telling)
        await self._fork_server.open()
        try:
            if broker is not None:
                await unless(self._stop.asked, self._start_broker(broker))
            if not self._stop.asked.is_set():
                await self._live()
        finally:
            await self._end()
        return self._exit_code

    # -- start -----------------------------------------------------------------------------------

    async def _start_broker(self, broker: EmbeddedBroker) -> None:
        own = self._broker = OwnBroker(broker, self._settings, self._node, self._table, self._clock, self._changed)
        await own.start(self._supervise)
        for note in broker.notes:
            self._tell(note)
        if not is_loopback(broker.host):
            self._tell(f"the broker listens on {broker.host} by TLS; `twd token add` prints what lets a machine join")
        self._settings = own.settings

    async def _rotate(self) -> None:
        self._log_file.rotate_if_big()
        if self._files.problem:
            self._write_state()
        if self._clock.now() - self._fault_at > FAULT_TOLD_S:
            self._fault = ""
            self._service.ails(FAULT, "")

    async def _live(self) -> None:
        self._write_state()
        if self._files.problem:  # no process could start without the settings file
            raise CommandError(ExitCode.CANNOT_START, self._files.problem)
        self._addresses["bus"] = address_of(self._settings.bus).shown
        self._process_group = ProcessGroup(
            self._table, self._tasks, self._supervise, self._changed, self._clock.wall_ms
        )
        self._life = self._make_life(self._process_group)
        way = partial(connect, self._settings, "supervisor", self._node, BROKER_WAIT_S)
        bus = None
        if self._broker is None:  # the services need an outside broker before they start
            bus = await unless(self._stop.asked, outside_broker(way, self._tell))
        if self._stop.asked.is_set():
            return
        self._process_group.start(self._specs)
        self._tasks.keep("rotate", partial(every, ROTATE_S, self._rotate))
        self._write_state()
        bus = bus or await unless(self._stop.asked, way())
        if bus is None:
            return
        try:
            ctx = ServiceContext(bus=bus, node=self._node, clock=self._clock, ids=Ids())
            await self._service.start(ctx)  # an unusable bus fails here, before others rely on it
            self._tasks.keep("overseer", partial(self._service.oversee, ctx))
            self._tasks.keep("reload", partial(self._reload.carry_out, self._life, self._write_state))
            if self._broker is not None and self._broker.knows_machines:
                run = partial(run_membership, self._settings, self._node, ctx.clock)
                self._membership = self._tasks.keep("membership", run)
            await self._stop.asked.wait()
            await self._drain()
        finally:
            if self._membership is not None:
                await cancel(self._membership, MEMBERSHIP_ENDS_S)
            await self._service.stop()
            await bus.close()

    def _make_service(self, ctx: ServiceContext) -> SupervisorService:
        return SupervisorService(
            ctx, self._table, self._changed, self._life, self._hung, self._end_hung, self._removed, self._trials
        )

    def _removed(self) -> None:
        """End all: the broker lets this machine in no longer."""
        if self._broker is None:
            text = "this machine was removed from the installation, and everything here ends"
            self._tell(f"{text}; `twd token add` on the broker's machine and `twd join` here bring it back")
            self._stop.asked.set()

    def _end_hung(self, name: str, why: str) -> None:
        if self._process_group is not None and policy_of(self._settings.hang_s).watches:
            self._process_group.supervisor.end_hung(name, why)

    def _supervise(self, specs: Sequence[ProcessSpec]) -> Supervisor:
        return Supervisor(
            specs,
            self._home.logs,
            self._clock,
            on_start=self._started,
            on_exit=self._exited,
            on_fault=self._faulted,
            environment=self._files.environment(),
            fork_server=self._fork_server,
            hang=policy_of(self._settings.hang_s),
        )

    def _make_life(self, process_group: ProcessGroup) -> ModelLife:
        return ModelLife(
            process_group,
            self._table,
            serving(self._settings, served_by(self._specs)),
            node=self._node,
            clock=self._clock,
            keep=self._keep_settings,
            tell=self._tell_change,
            entries=self._service.entries,
            tasks=self._tasks,
        )

    def _keep_settings(self, settings: Settings) -> None:
        """Store the settings for processes that start from now on. On failure it raises TwdError and tries later."""
        self._settings = settings
        self._files.keep(settings)

    def _tell_change(self, told: ChangeTold) -> None:
        self._service.emit(told)
        self._reload.told(told)
        why = f": {told.failure.message}" if told.failure else ""
        self._tell(f"{told.model}: {told.step.replace('_', ' ')}{why}; {told.note}")
        self._changed()

    # -- what happens meanwhile --------------------------------------------------------------------

    def _started(self, child: ChildProcess) -> None:
        self._table.started(child.spec.name, child.pid)
        if child.spec.name == BROKER and self._broker is not None:
            self._tasks.keep(BROKER, partial(self._broker.comes, child))
        elif self._process_group is not None:
            self._process_group.started(child)
        self._changed()

    def _exited(self, gone: ProcessExit) -> None:
        log.warning(
            "%s (pid %d) ended with exit code %d; again in %g s", gone.name, gone.pid, gone.code, gone.retry_in_s
        )
        self._table.exited(gone.name, gone.code, gone.restarts, gone.retry_in_s, gone.problem)
        self._service.tell_exit(gone)
        self._changed()

    def _faulted(self, task: str, error: BaseException) -> None:
        """Report a fault of the supervisor itself; the processes in its care go on."""
        log.error("fault in %s", task, exc_info=error)
        self._fault, self._fault_at = f"a fault in {task}: {error!r}; everything runs on", self._clock.now()
        self._service.tell_fault(error, task)
        self._service.ails(FAULT, self._fault)
        with contextlib.suppress(Exception):  # it may be the view that failed
            self._tell(self._fault)

    def _changed(self) -> None:
        for row in self._table.rows.values():
            if isinstance(row.facts, EdgeFacts | AgentFacts | SwarmFacts) and row.facts.url:
                self._addresses["api" if row.name == "edge" else row.name] = row.facts.url
        if self._table.ready and self._opening is None:
            self._opening = self._tasks.start("open", self._open())
        if self._life is not None:
            self._life.news.set()
        self._write_state()
        self._show()

    async def _open(self) -> None:
        """All processes work: when the drafters are measured, become ready."""
        await self._trials.end(self._clock)
        if not self._table.ready:
            self._opening = None  # a process ended meanwhile
            return
        self._ready_ms = max(1, self._clock.wall_ms() - self._table.began_ms)
        self._changed()
        if self._measured:
            from twd.supervisor.demo import tell_measured

            await tell_measured(self._settings, self._node, self._tell)

    def _tell(self, note: str) -> None:
        log.info("%s", note)
        self._note = note
        self._show()

    def _show(self) -> None:
        self._view.show(self.picture())

    def picture(self) -> StartSnapshot:
        """Return the state of the installation for the display."""
        return StartSnapshot(
            home=str(self._home.path),
            pid=os.getpid(),
            rows=list(self._table.rows.values()),
            addresses=self._addresses,
            ready_ms=self._ready_ms,
            note=self._note,
        )

    def _write_state(self) -> None:
        self._files.write(self._settings, self._record())

    def _disk_ails(self, problem: str, is_new: bool) -> None:
        if is_new:
            self._tell(problem)
        self._service.ails(DISK, problem)

    def _record(self) -> RunningInstance:
        return RunningInstance(
            pid=os.getpid(),
            born=self._born,
            started_ms=self._table.began_ms,
            version=twd.__version__,
            node=self._node,
            guard=self._guard.pid,
            in_terminal=self._guard.in_terminal,
            bus_url=self._settings.bus.url,
            bus_token=self._settings.bus.token,
            bus_fingerprint=self._settings.bus.tls.fingerprint,
            bus_keys=self._settings.bus.nkey_dir if self._broker is not None else "",
            addresses=self._addresses,
            processes={row.name: row.pid for row in self._table.rows.values()},
            leaseless=tuple(row.name for row in self._table.rows.values() if not row.leased),
            ready=bool(self._ready_ms),
            missing=self._table.missing,
            reload=self._reload.record,
        )

    # -- the end -----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._table.ends(StartPhase.DRAINING)
        self._manager.ending()
        self._tell("ending; a second Ctrl-C kills")
        if self._opening is not None:  # else the drain would wait for it
            await cancel(self._opening, MEASURING_ENDS_S)
        if self._process_group is not None:
            late = await self._process_group.supervisor.stop(DRAIN_S)
            if late:
                self._tell(f"killed after {DRAIN_S:g} s: {', '.join(late)}")

    async def _end(self) -> None:
        for supervisor in self._supervisors():
            await supervisor.stop(DRAIN_S)
        await self._fork_server.close()
        await self._tasks.close()
        self._table.ends(StartPhase.ENDED)
        self._tell("ended")
        self._view.close()

    def _give_up(self, why: str) -> None:
        """End a start that cannot succeed, so that the service manager sees a failure and not an endless start."""
        self._exit_code = ExitCode.CANNOT_START
        self._tell(why)
        self._stop.asked.set()

    def _kill(self) -> None:
        self._exit_code = ExitCode.INTERRUPTED
        for supervisor in self._supervisors():
            supervisor.kill()

    def _supervisors(self) -> list[Supervisor]:
        owners = (self._process_group, self._broker)
        return [found for owner in owners if owner is not None and (found := owner.supervisor) is not None]
