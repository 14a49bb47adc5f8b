"""One process that an agent keeps alive: its address, and whether it works."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import twd
from twd.agent.launch import ENGINE
from twd.engine.rpc.probe import OURS, RpcMismatch, RpcUnusable, probe
from twd.net.ports import listens_on
from twd.process.supervisor import ChildProcess, ProcessState, Supervisor
from twd.wire.node import READY, ProcessFacts, ProcessKind, ProcessWanted

PROBE_S: Final = 2.0


class PortForward(Protocol):
    """Something in front of a process's port, through which other machines connect."""

    async def start(self) -> int:
        """Start it; return the port to which other machines connect."""
        ...

    async def close(self) -> None:
        """Close the port and its connections."""
        ...


@dataclass
class ManagedProcess:
    """One process with its own supervisor, so that it can be ended alone."""

    wanted: ProcessWanted
    host: str
    port: int
    supervisor: Supervisor
    fronts: Sequence[PortForward] = ()
    front_host: str = ""
    front_port: int = 0
    """Port (and `front_host`) by which other machines reach it; 0 where they connect directly."""
    cert: str = ""
    version: str = ""
    note: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def child(self) -> ChildProcess:
        """The supervisor's record of the process."""
        return self.supervisor.children[self.wanted.process]

    @property
    def ours(self) -> bool:
        """Whether it is a program of twd's own."""
        return self.wanted.program in ("", ENGINE)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.child.state is ProcessState.RUNNING

    def facts(self) -> ProcessFacts:
        """Return the facts that others may read."""
        child = self.child
        return ProcessFacts(
            process=self.wanted.process,
            kind=self.wanted.kind,
            state=READY if self.alive and self.version else "starting" if self.alive else child.state.value,
            pid=child.pid if self.alive else 0,
            restarts=child.restarts,
            host=self.front_host or self.host,
            port=self.front_port or self.port,
            program=self.wanted.program or ENGINE,
            version=self.version,
            note=self.note[:1024],
            cert=self.cert,
        )

    async def open_fronts(self) -> None:
        """Open the ports through which other machines connect."""
        for front in self.fronts:
            self.front_port = await front.start()

    async def end(self, timeout_s: float) -> None:
        """Close those ports, and end the process."""
        for front in self.fronts:
            await front.close()
        await self.supervisor.stop(timeout_s)

    async def check(self) -> bool:
        """Return whether it works; stores its version, or what is wrong with it."""
        if self.wanted.kind in (ProcessKind.DRAFTER, ProcessKind.SWARM):  # these report their state in their leases
            self.version, self.note = twd.__version__, ""
            return True
        if self.ours and not listens_on(self.child.pid, self.port):
            return False
        if self.wanted.kind is ProcessKind.STAGE:  # it listens as soon as its slice is in memory
            self.version, self.note = twd.__version__, ""
            return True
        try:
            version = await probe(self.host, self.port, PROBE_S)
        except RpcUnusable as problem:
            self.note = str(problem)
            return False
        mismatch = None if OURS.can_talk_to(version) else RpcMismatch(f"{self.host}:{self.port}", version, OURS)
        self.version, self.note = str(version), str(mismatch or "")
        return True
