"""Agentless hosts: machines of the settings without an agent, whose RPC workers somebody else runs. No I/O here.

A worker serves one client at a time. So a worker that a model is placed on, or that a speculator holds, is not probed:
the speculator reports its problems. All others are probed now and then.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from twd.coordinator.core.machines.configured_devices import bytes_of, names_of
from twd.coordinator.core.machines.device_names import device_name
from twd.engine.rpc.probe import OURS, LentMemory, RpcMismatch, RpcUnusable, RpcWorkerFacts
from twd.kit.ids import node_id
from twd.net.addresses import is_loopback
from twd.net.ports import LOOPBACK
from twd.settings.model import GpuConfig, PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.failures import FailureCode
from twd.wire.node import READY, GpuFacts, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import GuestUse, PlacementDecided

BACKEND: Final = "RPC"
PREFIX: Final = "rpc.guest."
UNUSABLE: Final = "unusable"
AGAIN_S: Final = 4.0
BUSY_S: Final = 10.0
"""Seconds before the next probe of a worker that accepts connections but does not answer: it may serve somebody
else."""
LOSS_S: Final = 5.0
LOSS_MOST_S: Final = 300.0
"""Seconds at most before a lost worker is probed again; the time doubles with each loss, since the same load may end
the worker again."""
FORGIVEN_S: Final = 600.0

WorkerKey = tuple[NodeId, str]
"""An agentless host and the process name of its worker."""


@dataclass(frozen=True, slots=True)
class RpcEndpoint:
    """One RPC worker of an agentless host, with the devices that the settings give it."""

    host: str
    port: int
    gpus: tuple[GpuConfig, ...] = ()

    @property
    def process(self) -> str:
        """Its process name on its machine."""
        return f"{PREFIX}{self.port}"


@dataclass(frozen=True, slots=True)
class AgentlessHost:
    """A machine without an agent."""

    host: str
    doors: tuple[RpcEndpoint, ...]

    @property
    def node(self) -> NodeId:
        """Its name on the bus: the whole address, as one word."""
        return node_id(self.host.replace(".", "-"))


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What is known of a worker of an agentless host."""

    again_at: float
    """Time of the next probe at the earliest, in seconds of the coordinator's clock."""
    devices: tuple[LentMemory, ...] = ()
    version: str = ""
    rtt_ms: float = 0.0
    problem: str = ""
    """Why it cannot be used; empty when it can."""
    losses: int = 0
    lost_at: float = 0.0


def agentless_hosts_of(pool: PoolConfig, agents: Sequence[NodeFacts]) -> list[AgentlessHost]:
    """Return the machines of the settings that no agent stands for; `agents` are the machines with agents on the
    bus."""
    if pool.engine != "rpc":
        return []
    answered = {name for facts in agents if not facts.guest for name in names_of(facts)}
    return [
        AgentlessHost(host, tuple(RpcEndpoint(host, port, gpus) for port, gpus in sorted(ports.items())))
        for host, ports in _ports_by_host(pool, answered).items()
    ]


def _ports_by_host(pool: PoolConfig, answered: Collection[str]) -> dict[str, dict[int, tuple[GpuConfig, ...]]]:
    """The ports of the workers in the settings, each with its GPUs, without the machines that have `answered`."""
    doors: dict[str, dict[int, tuple[GpuConfig, ...]]] = {}
    for worker in pool.workers:
        host = worker.host.lower()
        if host in answered and not is_loopback(host):
            continue  # a loopback address in an agent's facts is its own; here ours is meant
        mine = doors.setdefault(LOOPBACK if host == "localhost" else host, {})
        for gpu in worker.gpus:
            port = gpu.rpc_port or worker.rpc_port
            mine[port] = (*mine.get(port, ()), gpu)
        if not worker.gpus:
            mine.setdefault(worker.rpc_port, ())
    return doors


def barred(host: str, pool: PoolConfig) -> str:
    """Return why a machine cannot be used without an agent, and what to do; empty when it can."""
    if ":" in host:
        return "llama.cpp reaches RPC workers by IPv4 addresses and by names: give one of these as its host"
    if pool.trusted_lan or is_loopback(host):
        return ""
    return (
        "no agent on the bus answers for it, and its RPC worker would be reached in the clear. Run `twd run agent` "
        "there, whose way is encrypted, or set pool.trusted_lan: true"
    )


# -- visits --------------------------------------------------------------------------------------------


def visited(
    door: RpcEndpoint, found: RpcWorkerFacts | RpcUnusable, pool: PoolConfig, before: EndpointState | None, now: float
) -> EndpointState:
    """Return the state of a worker after a probe."""
    losses, lost_at = (before.losses, before.lost_at) if before and now - before.lost_at < FORGIVEN_S else (0, 0.0)
    seen = EndpointState(now + AGAIN_S, losses=losses, lost_at=lost_at)
    if isinstance(found, RpcUnusable):
        pause = BUSY_S if found.code is FailureCode.BUSY else AGAIN_S
        text = f"no agent on the bus answers for it, and {found}"
        return replace(seen, again_at=now + pause, problem=text)
    seen = replace(seen, version=str(found.version), devices=found.devices, rtt_ms=round(found.rtt_s * 1000, 3))
    return replace(seen, problem=_unfit(door, found, pool))


def _unfit(door: RpcEndpoint, found: RpcWorkerFacts, pool: PoolConfig) -> str:
    where = f"{door.host}:{door.port}"
    if not OURS.can_talk_to(found.version) and not pool.skip_version_check:
        return f"{RpcMismatch(where, found.version, OURS)}; pool.skip_version_check insists on it"
    if not found.devices and not door.gpus:
        return f"the RPC worker at {where} does not tell its memory; give its devices a vram_gb in pool.workers"
    return ""


def lost(before: EndpointState | None, why: str, now: float) -> EndpointState:
    """Return the state of a worker that a speculator could not use."""
    losses = before.losses if before and now - before.lost_at < FORGIVEN_S else 0
    return EndpointState(now + min(LOSS_MOST_S, LOSS_S * 2**losses), problem=why, losses=losses + 1, lost_at=now)


def is_due(seen: EndpointState | None, now: float) -> bool:
    """Whether it is time to probe a worker that nobody uses."""
    return seen is None or now >= seen.again_at


# -- as others see them --------------------------------------------------------------------------------


def agentless_facts(
    guest: AgentlessHost, seen: Callable[[RpcEndpoint], EndpointState | None], instance: InstanceId, pid: int
) -> NodeFacts:
    """Return an agentless host's facts in the form of other machines, with a ready process for each usable worker."""
    gpus: list[GpuFacts] = []
    processes: list[ProcessFacts] = []
    for door in guest.doors:
        known = seen(door)
        lent = list(_devices(door, known, len(gpus))) if known and not known.problem else []
        gpus += lent
        processes.append(_process(door, known, lent))
    found = [known for door in guest.doors if (known := seen(door)) is not None]
    return NodeFacts(
        node=guest.node,
        instance=instance,
        machine=f"guest {guest.host}",
        pid=pid,
        hostname=guest.host,
        gpus=gpus,
        processes=processes,
        looking=len(found) < len(guest.doors),
        lends=True,
        link_ms=max((known.rtt_ms for known in found), default=0.0),
        guest=True,
    )


def _devices(door: RpcEndpoint, seen: EndpointState, first: int) -> Iterator[GpuFacts]:
    """Yield a worker's devices. Devices in the settings take precedence, but no more of them than the worker has."""
    given = door.gpus[: len(seen.devices) or None]
    for index, gpu in enumerate(given, first):
        size = bytes_of(gpu)
        yield GpuFacts(name=gpu.name or "GPU", backend=BACKEND, index=index, total=size, free=size)
    for index, lent in enumerate(() if door.gpus else seen.devices, first):
        whole = lent.free == lent.total  # llama.cpp reports this for CPU memory, whatever is used
        free = lent.total // 2 if whole else lent.free
        name = f"device {index - first} of port {door.port}"
        yield GpuFacts(name=name, backend=BACKEND, index=index, total=lent.total, free=free, shared=whole)


def _process(door: RpcEndpoint, seen: EndpointState | None, lent: Sequence[GpuFacts]) -> ProcessFacts:
    usable = seen is not None and not seen.problem
    return ProcessFacts(
        process=door.process,
        kind=ProcessKind.RPC,
        state=READY if usable else UNUSABLE if seen else "not seen yet",
        host=door.host,
        port=door.port,
        program="rpc-server",
        version=seen.version if seen else "",
        note=(seen.problem if seen else "")[:1024],
        devices=[device_name(gpu) for gpu in lent],
    )


def remembered(facts: NodeFacts, now: float) -> dict[str, EndpointState]:
    """Return what the last coordinator knew of an agentless host's workers, by process."""
    gpus = {device_name(gpu): gpu for gpu in facts.gpus}
    return {
        process.process: EndpointState(
            now,
            tuple(_as_lent(gpu) for name in process.devices if (gpu := gpus.get(name))),
            process.version,
            facts.link_ms,
            process.note,
        )
        for process in facts.processes
        if process.state in (READY, UNUSABLE)
    }


def _as_lent(gpu: GpuFacts) -> LentMemory:
    """Return a device's memory as its worker reported it; for CPU memory all of it counts as free."""
    return LentMemory(gpu.total if gpu.shared else gpu.free, gpu.total)


# -- who uses them -------------------------------------------------------------------------------------


def claims(decided: Mapping[str, PlacementDecided]) -> dict[WorkerKey, str]:
    """Return the workers of agentless hosts that models are placed on, each with the model's place."""
    return {
        (piece.node, piece.process): place
        for place, decision in decided.items()
        for piece in decision.slices
        if piece.process.startswith(PREFIX)
    }


def held(uses: Mapping[str, Iterable[GuestUse]]) -> dict[WorkerKey, str]:
    """Return the workers that speculators hold, each with the place of the model; `uses` are by place."""
    return {(use.node, use.process): place for place, told in uses.items() for use in told if not use.problem}


def losses(
    uses: Mapping[str, Iterable[GuestUse]], decided: Mapping[str, PlacementDecided]
) -> Iterator[tuple[WorkerKey, str]]:
    """Yield the workers that a model could not use though it is still placed on them, and why."""
    claimed = claims(decided)
    for place, told in uses.items():
        for use in told:
            key = (use.node, use.process)
            if use.problem and claimed.get(key) == place:
                yield key, use.problem


def left_for(
    place: str, nodes: Iterable[NodeFacts], decided: Mapping[str, PlacementDecided], holders: Mapping[WorkerKey, str]
) -> list[NodeFacts]:
    """Return the machines as one model may use them: without workers of agentless hosts that another model uses."""
    taken = {key: owner for key, owner in {**holders, **claims(decided)}.items() if owner != place}
    return [_without(facts, taken) if facts.guest else facts for facts in nodes]


def _without(facts: NodeFacts, taken: Mapping[WorkerKey, str]) -> NodeFacts:
    left: list[ProcessFacts] = []
    gone: Collection[str] = set()
    for process in facts.processes:
        owner = taken.get((facts.node, process.process))
        if owner is not None:
            gone = {*gone, *process.devices}
            note = f"its RPC worker on port {process.port} serves {owner}, and one model at a time"
            process = msgspec.structs.replace(process, state=UNUSABLE, note=note, devices=[])
        left.append(process)
    gpus = [gpu for gpu in facts.gpus if device_name(gpu) not in gone]
    return msgspec.structs.replace(facts, processes=left, gpus=gpus)
