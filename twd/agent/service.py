"""The agent: reports the facts of its machine, and keeps the processes alive there that others request."""

import asyncio
from collections.abc import Coroutine, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

import msgspec

from twd.agent.core import is_news, refusal
from twd.agent.detect import MachineDetector
from twd.agent.digests import FileDigests
from twd.agent.probes.cpu import memory_facts
from twd.agent.processes import ManagedProcesses
from twd.bus.base import BusError, LeaseEntry
from twd.kit.effects import Do
from twd.kit.lease_lock import LeaseLock
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Reply, Service, ServiceContext
from twd.kit.tasks import every, heard
from twd.process import platform
from twd.process.fork_server import ForkServerHandle
from twd.process.hung_log import HungLog
from twd.process.supervisor import ProcessExit
from twd.settings.model import Settings
from twd.wire.base import Event
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.leases.machine import AgentFacts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.names import subject_token
from twd.wire.node import (
    READY,
    ModelFile,
    NodeChanged,
    NodeFacts,
    ProcessAnswered,
    ProcessFacts,
    ProcessKind,
    ProcessStarted,
    ProcessStopped,
    ProcessUnwanted,
    ProcessWanted,
    node_key,
    read_node,
)
from twd.wire.routes import ROUTE_OF
from twd.wire.service import ServiceExited, read_lease, told_by

if TYPE_CHECKING:
    from twd.agent.rest.handlers import PeerApi
    from twd.agent.rest.server import PeerServer

LOOK_S: Final = 10.0
WATCH_S: Final = 1.0
UNSETTLED_S: Final = 0.05
"""Seconds between checks while a process starts: somebody waits for it."""
ADMIT_S: Final = 1.0
BEATS: Final = 3
"""How often the machine's lease is renewed within the time after which it expires."""


class AgentService(Service):
    """Looks after one machine."""

    name = "agent"
    reads = (ProcessWanted, ProcessUnwanted)
    writes = (NodeChanged, ProcessAnswered, ProcessStarted, ProcessStopped, ServiceExited)

    def __init__(
        self, ctx: ServiceContext, settings: Settings, link_s: float = 0.0, forks: ForkServerHandle | None = None
    ) -> None:
        """`forks`: the fork server that starts processes of our own.

        `link_s`: the round-trip time in seconds of a slow link in front of this machine's processes, to simulate a
        distant one.
        """
        super().__init__(ctx)
        settings = msgspec.structs.replace(settings, node=ctx.node)
        self._settings = settings
        self._link_s = link_s
        self._detector = MachineDetector(settings, ctx.node, self.instance, ctx.pid)
        self._processes = ManagedProcesses(
            settings,
            ctx.clock,
            on_start=self._started,
            on_exit=self._exited,
            on_fault=self._task_failed,
            models=self._models,
            link_s=link_s,
            forks=forks,
        )
        self._hung = HungLog()
        self._stirred = asyncio.Event()
        """Set when a process ended or started."""
        self._server: PeerServer | None = None
        self._first_look: asyncio.Task[NodeFacts] | None = None
        self._claim: LeaseLock | None = None
        self._seen: NodeFacts | None = None
        self._told: NodeFacts | None = None

    # -- life ----------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Claim the machine's name in the registry, and start to detect the machine: drivers may take seconds to
        answer."""
        self._settings.home_dir.joinpath("logs").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._seen = self._detector.glance()
        await self._take_claim(self._seen)
        self._first_look = self.tasks.start("look round", self._detector.look(self.clock.now()))
        self.tasks.start("watch", self._keep_watching())
        await self._processes.open()
        self.tasks.start("beat", every(max(0.3, self._settings.coordinator.lease_s / BEATS), self._beat))

    async def start(self) -> None:
        """Accept requests, open the port, publish what was detected, and detect again from time to time."""
        await super().start()
        if self._claim is not None:
            await self._open_port()
            self.tasks.start("look", self._keep_looking())
            if self._processes.lends:
                self.tasks.start("admit", every(ADMIT_S, self._admit))

    async def _open_port(self) -> None:
        await asyncio.to_thread(import_module, "twd.agent.rest.server")  # a web server takes long to import
        from twd.agent.rest.server import PeerServer

        self._server = PeerServer(self._settings.agent, self._settings.home_dir, self.clock, self.log)
        await self._server.open(self._api().routes())
        self.log.info("peer API at %s", self._server.url)

    @property
    def _peer_url(self) -> str:
        return self._server.url if self._server is not None and self._server.port else ""

    async def _keep_looking(self) -> None:
        assert self._first_look is not None
        await self._saw(await self._first_look)
        await every(LOOK_S, self._look)

    def _api(self) -> "PeerApi":
        from twd.agent.rest.handlers import PeerApi

        return PeerApi(
            facts=self._facts,
            start=self._start,
            stop=self._stop,
            processes=self._processes,
            digests=FileDigests(self._detector.scan),
            logs=self._settings.home_dir / "logs",
            model_dirs=self._detector.model_dirs,
            clock=self.clock,
            began=self.clock.now(),
        )

    async def teardown(self) -> None:
        """Close the port, end all processes of this agent, and release the machine's name."""
        if self._server is not None:
            await self._server.close()
        await self._processes.stop_all()
        await self._leave_claim()

    def facts(self) -> AgentFacts:
        """What `twd status` shows."""
        seen = self._facts()
        return AgentFacts(
            url=self._peer_url,
            cores=seen.cpu.cores,
            memory_bytes=seen.memory.total,
            available_bytes=seen.memory.available,
            gpus=[f"{gpu.name} ({gpu.backend}, {gpu.total} bytes)" for gpu in seen.gpus],
            models=len(seen.models),
            processes=[facts.process for facts in seen.processes],
            hung=self._hung.known,
        )

    # -- the machine ---------------------------------------------------------------------------

    def _facts(self) -> NodeFacts:
        assert self._seen is not None
        return msgspec.structs.replace(
            self._seen,
            memory=memory_facts(),  # measured now, with the processes that run now
            peer_url=self._peer_url,
            processes=self._processes.facts(),
            link_ms=self._link_s * 1000,
            lends=self._processes.lends,
            accepts=self._processes.lends or self._settings.swarm.accept,
        )

    def _models(self) -> Sequence[ModelFile]:
        """Return the models on this machine, as soon as the first detection has ended."""
        facts, first = self._facts(), self._first_look
        return first.result().models if facts.looking and first is not None and first.done() else facts.models

    async def _keep_watching(self) -> None:
        while True:
            settled = all(process.state == READY for process in self._processes.facts())
            self._stirred.clear()
            await heard(self._stirred, WATCH_S if settled else UNSETTLED_S)
            await self._watch()

    async def _watch(self) -> None:
        """Check the restarted processes, and publish what changed."""
        if self._processes.facts():
            await self._processes.watch()
            await self._tell()

    async def _admit(self) -> None:
        """Read the certificates of speculators from their leases, and let these use the workers here."""
        try:
            leases = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
            entries = await leases.entries()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        told = (read_lease(entry.value, entry.key) for entry in entries if entry.key.startswith("speculator."))
        self._processes.admit([facts.certificate for _, facts in told_by(told, SpeculatorFacts) if facts.certificate])

    async def _look(self) -> None:
        await self._saw(await self._detector.look(self.clock.now()))

    async def _saw(self, facts: NodeFacts) -> None:
        self._seen = facts
        self.note = "; ".join(self._detector.notes)
        await self._tell()

    async def _tell(self) -> None:
        """Publish the facts if they changed enough, and store them in the registry."""
        facts = self._facts()
        if is_news(self._told, facts):
            self._told = facts
            await self._beat()
            self.emit(NodeChanged(node=self.ctx.node, facts=facts))

    # -- the name ------------------------------------------------------------------------------

    async def _take_claim(self, facts: NodeFacts) -> None:
        leases = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        claim = LeaseLock(leases, f"{self.name}.{subject_token(self.ctx.node)}", self._is_mine)
        holder = await claim.take(_value(facts), lambda entry: not self._refusal(entry, facts))
        if holder is not None:
            raise TwdError(
                FailureCode.FORBIDDEN, self._refusal(holder, facts) or "another agent has this machine's name"
            )
        self._claim = claim

    def _is_mine(self, value: bytes) -> bool:
        holder = read_node(value, node_key(self.ctx.node))
        return holder is not None and holder.instance == self.instance

    @staticmethod
    def _refusal(entry: LeaseEntry, facts: NodeFacts) -> str:
        holder = read_node(entry.value, entry.key)
        return refusal(holder, facts, holder is not None and platform.born(holder.pid) is not None)

    async def _beat(self) -> None:
        if self._claim is None:
            return
        facts = self._facts()
        try:
            renewed = await self._claim.renew(_value(facts))
        except BusError as error:
            self.log.warning("the machine's key could not be renewed: %s", error)
            return
        if not renewed and self._claim is not None:
            self._claim = None
            raise TwdError(FailureCode.FORBIDDEN, f"another agent took the name {self.ctx.node!r} on this bus")

    async def register_again(self) -> None:
        """The bus is back after a loss: renew the machine's name, too."""
        await self._beat()
        await super().register_again()

    async def _leave_claim(self) -> None:
        claim, self._claim = self._claim, None
        try:
            if claim is not None and self.bus.connected:  # without the bus the lease expires by itself
                await claim.release(_value(self._facts()))
        except BusError as error:
            self.log.warning("the machine's key could not be given up: %s", error)

    # -- processes -----------------------------------------------------------------------------

    def pattern(self, event_type: type[Event]) -> str:
        """Subscribe only to requests for this machine."""
        return ROUTE_OF[event_type].pattern_for(node=self.ctx.node)

    def on_process_wanted(self, event: ProcessWanted, reply: Reply) -> Effects:
        """Start the process, and answer when it works."""
        return [Do(f"start {event.process}", lambda: self._answer(event, reply, self._start(event)))]

    def on_process_unwanted(self, event: ProcessUnwanted, reply: Reply) -> Effects:
        """End the process, and answer when it has ended."""
        return [Do(f"stop {event.process}", lambda: self._answer(event, reply, self._stop(event.process, "unwanted")))]

    async def _answer(
        self, event: ProcessWanted | ProcessUnwanted, reply: Reply, work: Coroutine[None, None, ProcessFacts | None]
    ) -> None:
        try:
            facts, failure = await work, None
        except TwdError as error:
            facts, failure = None, error.failure
            self.log.warning("%s: %s", event.process, error)
        except OSError as error:
            facts, failure = None, Failure(code=FailureCode.WORKER_LOST, message=f"{event.process}: {error}")
        reply(ProcessAnswered(node=self.ctx.node, process=event.process, facts=facts, failure=failure))

    async def _start(self, wanted: ProcessWanted) -> ProcessFacts:
        if wanted.kind not in (ProcessKind.RPC, ProcessKind.SWARM) and self._first_look is not None:
            await asyncio.wait({self._first_look})  # only then it is known which models are here
        facts, new = await self._processes.start(wanted)
        if new:
            self.emit(ProcessStarted(node=self.ctx.node, facts=facts))
            await self._tell()
        return facts

    async def _stop(self, process: str, reason: str) -> ProcessFacts | None:
        if await self._processes.stop(process):
            self.emit(ProcessStopped(node=self.ctx.node, process=process, reason=reason))
            await self._tell()
        return None

    def _started(self) -> None:
        self._stirred.set()

    def _exited(self, gone: ProcessExit) -> None:
        self._stirred.set()
        self.emit(
            ServiceExited(
                service=gone.name,
                node=self.ctx.node,
                pid=gone.pid,
                exit_code=gone.code,
                restarts=gone.restarts,
                retry_in_ms=round(gone.retry_in_s * 1000),
                last_words=gone.last_words,
                hung=gone.hung,
            )
        )
        if gone.hung:
            self.log.warning("%s was hung: %s; it was ended and is started again", gone.name, gone.hung)
        self._hung.note(gone.name, gone.hung, self.clock.wall_ms())
        self.tasks.start(f"tell of {gone.name}", self._tell())


def _value(facts: NodeFacts) -> bytes:
    return msgspec.json.encode(facts)
