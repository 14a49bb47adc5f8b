"""The processes that this agent keeps alive for others: started, watched, restarted, ended."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakSet, WeakValueDictionary

import msgspec

from twd.agent.environment import environment_here
from twd.agent.launch import (
    ENGINE,
    cache_argv,
    check_process_name,
    drafter_argv,
    find_draft_model,
    find_model,
    on_port,
    resolve,
    rpc_argv,
    stage_argv,
)
from twd.agent.running import ManagedProcess
from twd.kit.clock import Clock
from twd.net.addresses import is_loopback, told_host
from twd.net.delay_proxy import DelayProxy
from twd.net.ports import bindable_port, free_port
from twd.private_file import write_private
from twd.process.fork_server import OURS, ForkServer, ForkServerHandle
from twd.process.hang import policy_of
from twd.process.home import RESOLVED_VARIABLE, StateFolder
from twd.process.supervisor import Backoff, ProcessExit, ProcessSpec, Supervisor
from twd.settings.model import Settings
from twd.settings.paths import path_of
from twd.wire.base import NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.names import subject_token
from twd.wire.node import ModelFile, ProcessFacts, ProcessKind, ProcessWanted

if TYPE_CHECKING:
    from twd.ring.trust import LinkIdentity
    from twd.ring.tunnel import TunnelExit

READY_S: Final = 30.0
LOOK_S: Final = 0.1
LOOK_FOR_HUNG_S: Final = 0.2
"""Seconds between checks for hung processes; short, since a stopped process answers nobody and closes no link."""
STOP_S: Final = 5.0
PROCESSES_MAX: Final = 32
ADMITTED_MAX: Final = 64
HEALTHY_S: Final = 3.0
"""A worker that ran for so many seconds before it was killed is restarted at once, however often that happens."""


class ManagedProcesses:
    """All processes of this machine that somebody wants."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        on_start: Callable[[], None],
        on_exit: Callable[[ProcessExit], None],
        on_fault: Callable[[str, BaseException], None],
        models: Callable[[], Sequence[ModelFile]] = tuple,
        link_s: float = 0.0,
        forks: ForkServerHandle | None = None,
    ) -> None:
        """`forks`: the fork server that starts processes of our own.

        `link_s`: the round-trip time in seconds of a slow link in front of every process, to simulate a distant
        machine.
        """
        self._settings = settings
        self._models = models
        self._link_s = link_s
        self._clock = clock
        self._on_start = on_start
        self._on_exit = on_exit
        self._on_fault = on_fault
        self._admitted: tuple[str, ...] = ()
        self._exits: WeakSet[TunnelExit] = WeakSet()
        self._running: dict[str, ManagedProcess] = {}
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One lock for each process name; it exists while somebody holds it or waits for it."""
        self._fork_server = ForkServer(forks, os.environ, on_fault, policy_of(settings.hang_s))

    @cached_property
    def _identity(self) -> "LinkIdentity":
        """The identity for encrypted connections to workers; made late, since what it needs takes long to import."""
        from twd.ring.trust import make_identity

        return make_identity(self._settings.node or "agent")

    def facts(self) -> list[ProcessFacts]:
        """Return the facts of all processes that run now."""
        return [running.facts() for running in self._running.values()]

    def find(self, port: int, kind: ProcessKind | None = None) -> str | None:
        """Return the name of the process that listens on a port, or whose front does; only of that kind, if one is
        given."""
        some = ((name, one) for name, one in self._running.items() if kind in (None, one.wanted.kind))
        return next((name for name, one in some if port and port in (one.port, one.front_port)), None)

    def free_port(self) -> int:
        """Return a free port for an RPC worker."""
        return _free_port(self.rpc_host, 0, self._promised)

    async def start(self, wanted: ProcessWanted) -> tuple[ProcessFacts, bool]:
        """Return the process's facts, and whether this call started it; raises the reason where it does not start. An
        RPC worker has answered before this returns."""
        check_process_name(wanted.process)
        wanted = self._with_program(wanted)
        async with self._lock(wanted.process):
            known = self._running.get(wanted.process)
            if known is not None:
                self._check_same(known, wanted)
                return known.facts(), False
            if len(self._running) >= PROCESSES_MAX:
                text = f"{PROCESSES_MAX} processes run here already; end one of them first"
                raise TwdError(FailureCode.BUSY, text)
            return await self._launch(wanted), True

    def _with_program(self, wanted: ProcessWanted) -> ProcessWanted:
        """Return the request with an RPC worker's program filled in: the requested one, else that of the settings, else
        our own."""
        if wanted.kind is not ProcessKind.RPC:
            return wanted
        program = wanted.program or self._settings.agent.binaries.rpc_server or ENGINE
        return msgspec.structs.replace(wanted, program=program)

    async def stop(self, process: str) -> bool:
        """End a process; return whether there was one."""
        async with self._lock(process):
            running = self._forget(process)
            if running is not None:
                await running.end(STOP_S)
        return running is not None

    async def stop_all(self) -> None:
        """End all processes and the fork server."""
        await asyncio.gather(*(self.stop(name) for name in list(self._running)))
        await self._fork_server.close()

    async def open(self) -> None:
        """Open the fork server. Where stages may be requested, import their code now, so that none waits for it."""
        await self._fork_server.open()
        if self.lends or self._settings.pooled:
            self._fork_server.prepare((*OURS, "run", "stage"))

    def _lock(self, process: str) -> asyncio.Lock:
        return self._changing.setdefault(process, asyncio.Lock())

    def _check_same(self, known: ManagedProcess, wanted: ProcessWanted) -> None:
        if (
            known.wanted.program != wanted.program
            or wanted.port not in (0, known.port)
            or known.wanted.kind != wanted.kind
        ):
            text = f"{wanted.process!r} runs already, as {known.wanted.program or ENGINE} on port {known.port}"
            raise TwdError(FailureCode.BAD_REQUEST, text, "process")

    # -- one start -------------------------------------------------------------------------------

    async def _launch(self, wanted: ProcessWanted) -> ProcessFacts:
        running = self._prepare(wanted)
        self._running[wanted.process] = running
        running.supervisor.start()
        try:
            await running.open_fronts()
            if wanted.kind is ProcessKind.RPC:  # others load for minutes, and report when they are ready
                await self._until_it_answers(running)
        except BaseException:
            self._forget(wanted.process)
            await running.end(STOP_S)
            raise
        return running.facts()

    def _forget(self, process: str) -> ManagedProcess | None:
        return self._running.pop(process, None)

    def _prepare(self, wanted: ProcessWanted) -> ManagedProcess:
        if wanted.kind is ProcessKind.STAGE:
            host, port = self._settings.pool.host, self._stage_port()
            slices = StateFolder(self._settings.home_dir).slices
            argv = stage_argv(wanted, find_model(wanted, self._models(), slices), host, port)
            supervisor = self._supervisor(wanted, argv, environment=self._service_environment())
        elif wanted.kind is ProcessKind.DRAFTER:
            host, port = "", 0  # others reach it over the bus only
            argv = drafter_argv(wanted, find_draft_model(wanted, self._models(), self._draft_paths()))
            supervisor = self._supervisor(wanted, argv, environment=self._service_environment())
        elif wanted.kind is ProcessKind.SWARM:
            if StateFolder(self._settings.home_dir).keeps("swarm"):
                raise TwdError(FailureCode.BUSY, "`twd up` keeps the swarm service of this machine; it comes by itself")
            host, port = "", 0  # its lease says where it serves files
            supervisor = self._supervisor(wanted, (*OURS, "run", "swarm"), environment=self._service_environment())
        else:
            foreign = wanted.program != ENGINE
            program = resolve(wanted.program, self._settings.agent.binaries) if foreign else ""
            host = self.rpc_host
            port = _free_port(host, wanted.port, self._promised)
            cache = cache_argv(self._weights_folder(wanted.process), self._settings.pool)
            argv = rpc_argv(program, host, port, wanted.threads, wanted.devices, cache)
            supervisor = self._supervisor(wanted, argv, foreign)
        running = ManagedProcess(wanted, host, port, supervisor, front_host=told_host(host))
        if self._link_s and port:
            running.fronts = (DelayProxy(host, port, self._link_s / 2),)
        elif wanted.kind is ProcessKind.RPC and self._tunnelled:
            running.fronts, running.cert = (self._exit(port),), self._identity.certificate
            running.front_host = told_host(self._settings.pool.host)
        return running

    def _weights_folder(self, process: str) -> Path:
        """Return the folder of a worker's cached weights; it has the node's name, as simulated machines share a
        home."""
        return StateFolder(self._settings.home_dir).weights / f"{subject_token(self._settings.node)}.{process}"

    def _draft_paths(self) -> set[str]:
        """Return the paths of draft models that the owner named in this machine's settings."""
        paths = {drafter.path for drafter in self._settings.drafters if drafter.path}
        return {str(path_of(path)) for path in paths}

    @property
    def lends(self) -> bool:
        """Whether other machines can reach the workers and stages of this one."""
        return not is_loopback(self._settings.pool.host)

    @property
    def _tunnelled(self) -> bool:
        """Whether other machines reach workers only through an encrypted tunnel."""
        return self.lends and not self._settings.pool.trusted_lan

    def _exit(self, port: int) -> "TunnelExit":
        from twd.ring.tunnel import TunnelExit

        end = TunnelExit(self._identity, self._settings.pool.host, port)
        end.admit(self._admitted)
        self._exits.add(end)
        return end

    def admit(self, certificates: Sequence[str]) -> None:
        """Let the holders of these certificates use the workers of this machine."""
        self._admitted = tuple(dict.fromkeys((*self._admitted[-ADMITTED_MAX:], *certificates)))
        for end in self._exits:
            end.admit(certificates)

    @property
    def _promised(self) -> set[int]:
        """The ports that processes have, or will have: some load for minutes before they listen."""
        return {running.port for running in self._running.values()}

    def _stage_port(self) -> int:
        """Return the first free port of the configured range, or else any free one."""
        host, first = self._settings.pool.host, self._settings.pool.stage_port
        for port in range(first, first + PROCESSES_MAX) if first else ():
            try:
                return _free_port(host, port, self._promised)
            except TwdError:
                continue
        return _free_port(host, 0, self._promised)

    def _service_environment(self) -> dict[str, str]:
        """Return the environment of a service; it reads the settings from a file, as this agent resolved them."""
        file = _made(self._settings.home_dir / "run") / "agent-settings.json"
        write_private(file, msgspec.json.encode(self._settings))
        return {**self._environment(), RESOLVED_VARIABLE: str(file)}

    def _environment(self) -> dict[str, str]:
        return environment_here(self._settings, self._settings.engine.backend)

    @property
    def rpc_host(self) -> str:
        """The address where RPC workers listen. llama.cpp's RPC has no security: others reach it directly only where
        the owner trusts the LAN."""
        pool = self._settings.pool
        return pool.host if pool.trusted_lan or is_loopback(pool.host) else "127.0.0.1"

    def _supervisor(
        self,
        wanted: ProcessWanted,
        argv: tuple[str, ...],
        foreign: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Supervisor:
        spec = ProcessSpec(
            wanted.process,
            argv,
            foreign=foreign,
            environment=environment or self._environment(),
        )
        return Supervisor(
            [spec],
            _made(self._settings.home_dir / "logs"),
            self._clock,
            on_start=lambda child: self._on_start(),
            on_exit=self._exited,
            on_fault=self._on_fault,
            backoff=Backoff(healthy_s=HEALTHY_S),
            fork_server=self._fork_server,
            hang=policy_of(self._settings.hang_s, LOOK_FOR_HUNG_S),
        )

    def _exited(self, gone: ProcessExit) -> None:
        running = self._running.get(gone.name)
        if running is not None:
            running.version, running.note = "", "" if gone.problem.startswith("{") else gone.problem
            if running.wanted.kind is ProcessKind.STAGE and not running.fronts:
                self._leave_taken_port(running)
        self._on_exit(gone)

    def _leave_taken_port(self, running: ManagedProcess) -> None:
        """If another program took a stage's port while it loaded, choose another one for its next start."""
        try:
            bindable_port(running.host, running.port)
        except OSError:
            with contextlib.suppress(TwdError):  # this machine has lost the address: no port is free there
                running.port = self._stage_port()
                running.child.spec = replace(running.child.spec, argv=on_port(running.child.spec.argv, running.port))

    async def _until_it_answers(self, running: ManagedProcess) -> None:
        """Wait until a worker completes the RPC handshake: only then it counts as started. Raises where it does not."""
        give_up = self._clock.now() + READY_S
        while self._clock.now() < give_up:
            if running.child.failures:
                name, words = running.wanted.process, running.child.log.last_problem()
                raise TwdError(FailureCode.WORKER_LOST, f"{name} ended as soon as it started: {words}")
            if await running.check():
                return
            await asyncio.sleep(LOOK_S)
        why = running.note or f"nobody listens on port {running.port}"
        text = f"{running.wanted.process} runs, but did not answer within {READY_S:g} s: {why}"
        raise TwdError(FailureCode.DEADLINE, text)

    async def watch(self) -> None:
        """Check the processes again that run but have not answered since they were restarted."""
        watched = list(self._running.values())
        await asyncio.gather(*(running.check() for running in watched if running.alive and not running.version))


def rpc_wanted(node: str, port: int, program: str = "", threads: int = 0) -> ProcessWanted:
    """Return the request for an RPC worker on one port, as the peer API makes it."""
    return ProcessWanted(
        node=NodeId(node), process=f"rpc.{port}", kind=ProcessKind.RPC, port=port, program=program, threads=threads
    )


def _free_port(host: str, port: int, promised: Collection[int]) -> int:
    """Return the requested port, or a free one for 0; raises where it is in use, or belongs to a process that
    starts."""
    if port and port in promised:
        raise _taken(host, port, "it belongs to a process that starts")
    try:
        return bindable_port(host, port) if port else free_port(host, promised)
    except OSError as error:
        raise _taken(host, port, str(error.strerror)) from None


def _taken(host: str, port: int, why: str) -> TwdError:
    text = f"no worker can listen on {host}:{port}: {why}; ask for another port, or for 0"
    return TwdError(FailureCode.BUSY, text, "port")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
