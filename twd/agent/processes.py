"""The processes that this agent keeps alive for others: started, watched, restarted, ended."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from twd.agent.launch import ENGINE, check_process_name, resolve, rpc_argv
from twd.engine.rpc_probe import OURS, RpcMismatch, RpcUnusable, probe
from twd.kit.addresses import is_loopback
from twd.kit.clock import Clock
from twd.kit.settings import Settings
from twd.kit.supervisor import Child, Exit, ProcessSpec, State, Supervisor
from twd.wire.base import NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import ProcessFacts, ProcessKind, ProcessWanted

READY_S: Final = 30.0
LOOK_S: Final = 0.1
PROBE_S: Final = 2.0
STOP_S: Final = 5.0
PROCESSES_MAX: Final = 32


@dataclass
class Running:
    """One process with its own supervisor, so that it can be ended alone."""

    wanted: ProcessWanted
    host: str
    port: int
    supervisor: Supervisor
    version: str = ""
    note: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def child(self) -> Child:
        """What the supervisor knows of it."""
        return self.supervisor.children[self.wanted.process]

    def facts(self) -> ProcessFacts:
        """As others may know it."""
        child = self.child
        alive = child.state is State.RUNNING
        return ProcessFacts(
            process=self.wanted.process,
            kind=self.wanted.kind,
            state="ready" if alive and self.version else "starting" if alive else child.state.value,
            pid=child.pid if alive else 0,
            restarts=child.restarts,
            host=self.host,
            port=self.port,
            program=self.wanted.program or ENGINE,
            version=self.version,
            note=self.note[:1024],
        )


class Processes:
    """All processes of this machine that somebody wants."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        on_exit: Callable[[Exit], None],
        on_fault: Callable[[str, BaseException], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_exit = on_exit
        self._on_fault = on_fault
        self._running: dict[str, Running] = {}
        self._changing: dict[str, asyncio.Lock] = {}

    def facts(self) -> list[ProcessFacts]:
        """What runs now."""
        return [running.facts() for running in self._running.values()]

    def find(self, port: int) -> str | None:
        """The process that listens on a port."""
        return next((name for name, running in self._running.items() if running.port == port), None)

    async def start(self, wanted: ProcessWanted) -> tuple[ProcessFacts, bool]:
        """The process, running and answering, and whether this call started it; raises why it does not."""
        check_process_name(wanted.process)
        async with self._lock(wanted.process):
            known = self._running.get(wanted.process)
            if known is not None:
                self._check_same(known, wanted)
                return known.facts(), False
            if len(self._running) >= PROCESSES_MAX:
                text = f"{PROCESSES_MAX} processes run here already; end one of them first"
                raise TwdError(FailureCode.BUSY, text)
            return await self._launch(wanted), True

    async def stop(self, process: str) -> bool:
        """End a process; whether there was one."""
        async with self._lock(process):
            running = self._running.pop(process, None)
            if running is not None:
                await running.supervisor.stop(STOP_S)
        self._changing.pop(process, None)
        return running is not None

    async def stop_all(self) -> None:
        """End everything."""
        await asyncio.gather(*(self.stop(name) for name in list(self._running)))

    def _lock(self, process: str) -> asyncio.Lock:
        return self._changing.setdefault(process, asyncio.Lock())

    def _check_same(self, known: Running, wanted: ProcessWanted) -> None:
        if known.wanted.program != wanted.program or wanted.port not in (0, known.port):
            text = f"{wanted.process!r} runs already, as {known.wanted.program or ENGINE} on port {known.port}"
            raise TwdError(FailureCode.BAD_REQUEST, text, "process")

    # -- one start -------------------------------------------------------------------------------

    async def _launch(self, wanted: ProcessWanted) -> ProcessFacts:
        host = self.rpc_host
        port = _free_port(host, wanted.port)
        running = Running(wanted, host, port, self._supervisor(wanted, host, port))
        self._running[wanted.process] = running
        running.supervisor.start()
        try:
            await self._until_it_answers(running)
        except BaseException:
            del self._running[wanted.process]
            await running.supervisor.stop(STOP_S)
            raise
        return running.facts()

    @property
    def rpc_host(self) -> str:
        """llama.cpp's RPC has no security of its own: others reach it only where the owner trusts the LAN."""
        pool = self._settings.pool
        return pool.host if pool.trusted_lan or is_loopback(pool.host) else "127.0.0.1"

    def _supervisor(self, wanted: ProcessWanted, host: str, port: int) -> Supervisor:
        foreign = wanted.program not in ("", ENGINE)
        program = resolve(wanted.program, self._settings.agent.binaries) if foreign else ""
        spec = ProcessSpec(
            wanted.process,
            rpc_argv(program, host, port, wanted.threads),
            foreign=foreign,
            environment=self._settings.engine.env,
        )
        logs = self._settings.home_dir / "logs"
        return Supervisor(
            [spec],
            _made(logs),
            self._clock,
            on_start=lambda child: None,
            on_exit=self._exited,
            on_fault=self._on_fault,
        )

    def _exited(self, gone: Exit) -> None:
        running = self._running.get(gone.name)
        if running is not None:
            running.version, running.note = "", gone.problem
        self._on_exit(gone)

    async def _until_it_answers(self, running: Running) -> None:
        """A worker counts as started when it shakes hands, not before."""
        give_up = self._clock.now() + READY_S
        while self._clock.now() < give_up:
            if running.child.failures:
                name, words = running.wanted.process, running.child.log.last_problem()
                raise TwdError(FailureCode.WORKER_LOST, f"{name} ended as soon as it started: {words}")
            if await self.check(running):
                return
            await asyncio.sleep(LOOK_S)
        text = f"{running.wanted.process} runs, but did not answer within {READY_S:g} s: {running.note}"
        raise TwdError(FailureCode.DEADLINE, text)

    async def check(self, running: Running) -> bool:
        """Shake hands with a worker; its version is kept, and what is wrong with it."""
        try:
            version = await probe(running.host, running.port, PROBE_S)
        except RpcUnusable as problem:
            running.note = str(problem)
            return False
        mismatch = None if OURS.can_talk_to(version) else RpcMismatch(f"{running.host}:{running.port}", version, OURS)
        running.version, running.note = str(version), str(mismatch or "")
        return True

    async def recheck(self) -> None:
        """Shake hands again with processes that were restarted."""
        for running in list(self._running.values()):
            if not running.version and running.child.state is State.RUNNING:
                await self.check(running)


def rpc_wanted(node: str, port: int, program: str = "", threads: int = 0) -> ProcessWanted:
    """The wish for an RPC worker on one port, as the peer API makes it."""
    program = "" if program == ENGINE else program
    return ProcessWanted(
        node=NodeId(node), process=f"rpc.{port}", kind=ProcessKind.RPC, port=port, program=program, threads=threads
    )


def _free_port(host: str, port: int) -> int:
    """The port that is asked for, or a free one for 0; raises when somebody else has it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((host.strip("[]"), port))
        except OSError as error:
            text = f"no worker can listen on {host}:{port}: {error.strerror}; ask for another port, or for 0"
            raise TwdError(FailureCode.BUSY, text, "port") from None
        return int(probe_socket.getsockname()[1])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
