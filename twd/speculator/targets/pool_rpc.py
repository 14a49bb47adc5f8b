"""A pooled model over llama.cpp's RPC workers: first the handshakes, then the load with their devices."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from twd.engine.library import leave_on_abort_with
from twd.engine.loading import load_native
from twd.engine.rpc.probe import OURS, RpcMismatch, RpcUnusable, probe, require_match
from twd.kit.exit_codes import ExitCode
from twd.kit.progress import Progress
from twd.kit.service import ServiceContext
from twd.process.core_plan import EngineRole
from twd.process.core_registry import OwnCores
from twd.process.home import StateFolder
from twd.settings.model import Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.embeddings import Embedding
from twd.speculator.targets.loaded import Load, LoadedModel
from twd.speculator.targets.native import NativeTarget, head_choice, limits_of, load_plan, preparer_of
from twd.speculator.targets.pool import PoolSource
from twd.speculator.targets.pool_core import PoolAssembly, RingMember, after_reaching, rpc_plan, uses_of
from twd.wire.base import ModelId
from twd.wire.embedding import EmbeddingRequested
from twd.wire.failures import FailureCode, TwdError
from twd.wire.placement import place_of

if TYPE_CHECKING:
    from twd.ring.trust import LinkIdentity
    from twd.ring.tunnel import TunnelEntry


class RpcTarget(NativeTarget):
    """A model over RPC workers as the service needs it."""

    def embed(self, request: EmbeddingRequested) -> Embedding:
        """Raise TwdError: a worker serves one thread at a time, and that is the engine's."""
        raise TwdError(FailureCode.UNSUPPORTED, f"{request.model} lies on RPC workers and gives no embeddings")


class WorkerRoutes:
    """How this process reaches workers: directly, or through a tunnel where they show a certificate."""

    def __init__(self, settings: Settings, name: str, shows: Callable[[str], Awaitable[None]]) -> None:
        """`shows`: publishes the certificate of this process."""
        self._check = not settings.pool.skip_version_check
        self._name = name
        self._shows = shows
        self._identity: LinkIdentity | None = None
        self._entries: dict[tuple[str, int], TunnelEntry] = {}

    async def reach(self, member: RingMember) -> str:
        """Returns the endpoint of a member's worker after the handshake; raises TwdError where llama.cpp would abort
        or hang."""
        host, port = await self._door(member)
        try:
            await self._shake_hands(host, port, patient=member.is_guest)
        except RpcMismatch as problem:
            text = f"{problem}; `--skip-version-check` (pool.skip_version_check) insists on it"
            raise TwdError(problem.code, text) from None
        return f"{host}:{port}"

    async def _shake_hands(self, host: str, port: int, patient: bool) -> None:
        """Do the handshake, twice with the worker of an agentless host: it may still compute for our last process."""
        for last in (not patient, True):
            try:
                await (require_match(host, port, OURS) if self._check else probe(host, port))
            except RpcUnusable as problem:
                if last or problem.code is not FailureCode.BUSY:
                    raise
            else:
                return

    async def _door(self, member: RingMember) -> tuple[str, int]:
        certificate = member.process.cert if member.process else ""
        if not certificate:
            return member.address
        from twd.ring.tunnel import LOOPBACK, TunnelEntry  # encryption is slow to import: only where it is needed

        identity = await self._known()
        old = self._entries.pop(member.address, None)
        if old is not None:
            await old.close()
        entry = self._entries[member.address] = TunnelEntry(identity, *member.address, certificate)
        return LOOPBACK, await entry.start()

    async def _known(self) -> "LinkIdentity":
        from twd.ring.trust import make_identity

        if self._identity is None:
            self._identity = make_identity(self._name)
            await self._shows(self._identity.certificate)
        return self._identity


async def reach_all(ways: WorkerRoutes, members: Sequence[RingMember], source: PoolSource) -> list[str]:
    """Returns the endpoints of all members, and publishes the state of agentless hosts, which no agent reports."""
    await source.tell_guests(uses_of(members, source.guests))
    reached = await asyncio.gather(*(ways.reach(member) for member in members), return_exceptions=True)
    problems = {member.key: str(end) for member, end in zip(members, reached, strict=True) if isinstance(end, TwdError)}
    await source.tell_guests(after_reaching(source.guests, problems))
    for end in reached:
        if isinstance(end, BaseException):
            raise end
    return [end for end in reached if isinstance(end, str)]


def rpc_speculator(ctx: ServiceContext, settings: Settings, name: str, replica: int = 1) -> SpeculatorService:
    """Returns the speculator of one configured model, or of one of its replicas, over RPC workers."""
    model = ModelId(name)

    async def show(certificate: str) -> None:
        await source.show(certificate)

    ways = WorkerRoutes(settings, name, show)

    async def assembled(assembly: PoolAssembly) -> Load:
        members = assembly.processes
        reached = await reach_all(ways, list(members.values()), source)
        plan = rpc_plan(assembly, dict(zip(members, reached, strict=True)))

        def load(progress: Progress) -> LoadedModel:
            leave_on_abort_with(ExitCode.WORKER_LOST)
            entry = settings.models[name]
            wanted = load_plan(model, entry, StateFolder(settings.home_dir).cache)
            native = load_native(replace(wanted, pool=plan, gpu_layers=0, **head_choice(model, settings)), progress)
            native.facts = msgspec.structs.replace(native.facts, backend="rpc")
            limits = replace(limits_of(native, entry, settings), device=assembly.device)
            return RpcTarget(native, preparer_of(native, ctx.ids.seed), limits)

        return load

    told = settings.models[name].threads
    cores = OwnCores(EngineRole.RPC_TARGET, name, 0 if told == "auto" else told)
    source = PoolSource(settings, place_of(model, replica), assembled, cores=cores)
    return SpeculatorService(ctx, model, source)
