"""What a pooled model waits for and where its parts are, from the coordinator's decision and the agents' leases."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from twd.engine.rpc.pool import LayerShare, PoolPlan
from twd.speculator.targets.decode_watchdog import until_known_s
from twd.wire.base import InstanceId, NodeId
from twd.wire.draft import DeviceKind
from twd.wire.node import CPU, READY, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import GuestUse, PlacementDecided, Slice
from twd.wire.ring import StageReady

PASS_S: Final = 2.5
PASS_FACTOR: Final = 4.0
"""A pass that takes this many times longer than expected counts as hung."""

CROWDED_MOST: Final = 4.0

Signature = tuple[tuple[str, str, str, int, int, bool], ...]


@dataclass(frozen=True, slots=True)
class RingMember:
    """One slice and the process that holds it; no process where the serving process holds it itself."""

    slice: Slice
    process: ProcessFacts | None = None
    stage: StageReady | None = None
    """What the stage of a ring reports of itself, with the address at which others reach it."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of its process."""
        return (self.process.host, self.process.port) if self.process else ("", 0)

    @property
    def key(self) -> tuple[NodeId, str]:
        """The names of its machine and its process."""
        return (self.slice.node, self.slice.process)

    @property
    def is_guest(self) -> bool:
        """Whether its worker belongs to an agentless host: it ran already and serves whoever connects first."""
        return self.process is not None and bool(self.process.devices)

    @property
    def name(self) -> str:
        """Its name in status and messages."""
        return f"{self.slice.node}/{self.slice.device}"


@dataclass(frozen=True, slots=True)
class PlacementHistory:
    """The processes that served the model until now, and the stages that could not be reached."""

    held: Collection[tuple[NodeId, str]] = ()
    lost: Collection[InstanceId] = ()


@dataclass(frozen=True, slots=True)
class PoolAssembly:
    """A placement, and the parts of it that are there."""

    placement: PlacementDecided | None = None
    members: tuple[RingMember, ...] = ()
    waits_for: tuple[str, ...] = ()
    """What is missing, in words; empty when all parts are there."""
    device: DeviceKind = DeviceKind.ELSEWHERE
    """The kind of device on the serving machine that computes layers of the model."""

    @property
    def complete(self) -> bool:
        """Whether the model can be loaded."""
        return self.placement is not None and not self.waits_for

    @property
    def signature(self) -> Signature:
        """A value that is equal for two assemblies if nothing must change between them."""
        pieces = (member.slice for member in self.members)
        return tuple((s.node, s.device, s.process, s.first, s.end, s.head) for s in pieces)

    @property
    def stages(self) -> list[StageReady]:
        """The stages of a ring, in ring order."""
        return [member.stage for member in self.members if member.stage is not None]

    @property
    def processes(self) -> dict[str, RingMember]:
        """The members with a process of their own, each once."""
        return {f"{m.slice.node} {m.slice.process}": m for m in self.members if m.process is not None}


def assemble(
    placement: PlacementDecided | None,
    nodes: Mapping[NodeId, NodeFacts],
    stages: Mapping[tuple[NodeId, int], StageReady] | None = None,
    habit: PlacementHistory = PlacementHistory(),
) -> PoolAssembly:
    """Find the process of each slice, or of a spare of it. Returns them and what is missing. `stages`: by machine and
    process id."""
    if placement is None:
        return PoolAssembly(waits_for=("the coordinator's decision",))
    if placement.missing_bytes:
        return PoolAssembly(placement, waits_for=("; ".join([*placement.notes, *placement.helps])[:900],))
    members = [_chosen(piece, placement.spares, nodes, stages or {}, habit) for piece in placement.slices]
    waits = dict.fromkeys(_waits_for(member, nodes) for member in members)
    waiting = tuple(text for text in waits if text)
    return PoolAssembly(placement, tuple(members), waiting, _device_here(placement, nodes))


def _device_here(placement: PlacementDecided, nodes: Mapping[NodeId, NodeFacts]) -> DeviceKind:
    """Returns the kind of device here. Simulated machines on the serving machine count as it."""
    home = nodes.get(placement.home)
    alike = {node for node, facts in nodes.items() if home is not None and facts.machine == home.machine}
    devices = {one.device for one in placement.slices if one.end > one.first and one.node in {placement.home, *alike}}
    if not devices:
        return DeviceKind.ELSEWHERE
    return DeviceKind.CPU if CPU in devices else DeviceKind.GPU


def _chosen(
    piece: Slice,
    spares: Sequence[Slice],
    nodes: Mapping[NodeId, NodeFacts],
    stages: Mapping[tuple[NodeId, int], StageReady],
    habit: PlacementHistory,
) -> RingMember:
    """Returns the member for a slice, among those that are ready: the one used until now, else its own process, else a
    spare."""
    copies = (piece, *(one for one in spares if one.process == piece.process))
    candidates = [_member(one, nodes, stages) for one in copies]
    ready = [member for member in candidates if not _waits_for(member, nodes)]
    reached = [member for member in ready if member.stage is None or member.stage.stage not in habit.lost]
    usual = [member for member in reached if (member.slice.node, member.slice.process) in habit.held]
    return next(iter((*usual, *reached, *ready, *candidates)))


def _member(
    piece: Slice, nodes: Mapping[NodeId, NodeFacts], stages: Mapping[tuple[NodeId, int], StageReady]
) -> RingMember:
    facts = nodes.get(piece.node)
    known = facts.processes if facts is not None and piece.process else []
    process = next((one for one in known if one.process == piece.process), None)
    stage = stages.get((piece.node, process.pid)) if process is not None else None
    if process is not None and stage is not None:
        stage = msgspec.structs.replace(stage, host=process.host, port=process.port)
    return RingMember(piece, process, stage)


def _waits_for(member: RingMember, nodes: Mapping[NodeId, NodeFacts]) -> str:
    piece, process = member.slice, member.process
    if not piece.process:
        return ""
    if piece.node not in nodes:
        return f"{piece.node}, whose agent is not on the bus"
    what = "stage" if process is not None and process.kind is ProcessKind.STAGE else "worker"
    if process is None:
        return f"{piece.node}'s {what}"
    if member.stage is not None:  # the process itself reports this, even if its agent does not know it yet
        return ""
    if process.state != READY:
        return f"{piece.node}'s {what} ({process.state}{': ' + process.note if process.note else ''})"
    if process.kind is ProcessKind.STAGE:
        return f"{piece.node}'s stage, which loads its slice"
    return ""


def replaced(loaded: PoolAssembly, now: PoolAssembly) -> str:
    """Returns which process of a loaded model was replaced, as its agent reports; empty: none.

    A machine without any report does not count: the broker may just have come back with an empty registry.
    """
    for key, member in loaded.processes.items():
        before, current = member.process, now.processes.get(key)
        process = current.process if current else None
        if before is not None and process is not None and (process.pid, process.state) != (before.pid, READY):
            return f"{member.name} was lost"
    return ""


def silent(loaded: PoolAssembly, now: PoolAssembly) -> str:
    """Returns which machine of a loaded model is not in the registry any more; empty: none."""
    away = [member for key, member in loaded.processes.items() if key not in now.processes]
    return f"nothing is heard of {away[0].slice.node}" if away else ""


def uses_of(members: Iterable[RingMember], before: Iterable[GuestUse]) -> list[GuestUse]:
    """Returns the workers of agentless hosts that a model is about to use. A known problem of a worker stays until it
    can be used."""
    known = {(use.node, use.process): use for use in before}
    keys = [member.key for member in members if member.is_guest]
    return [known.get(key) or GuestUse(node=key[0], process=key[1]) for key in keys]


def after_reaching(uses: Iterable[GuestUse], problems: Mapping[tuple[NodeId, str], str]) -> list[GuestUse]:
    """Returns what to publish about the workers of agentless hosts after the handshakes. If any failed, only the
    failed ones are listed and none is held."""
    told = [
        GuestUse(node=use.node, process=use.process, problem=problems.get((use.node, use.process), "")) for use in uses
    ]
    return [use for use in told if use.problem or not problems]


def still_placed(uses: Sequence[GuestUse], now: PoolAssembly) -> list[GuestUse]:
    """Returns what was published about those workers, without those that the model does not need any more."""
    slices = now.placement.slices if now.placement else []
    needed = {(piece.node, piece.process) for piece in slices}
    return [use for use in uses if (use.node, use.process) in needed]


def pass_deadline_s(expected_ms: float, crowding: float = 1.0, *, familiar: bool = True) -> float:
    """Returns how many seconds a pass may take before a worker counts as hung; more if `crowding` processes share each
    core.

    Devices that have not computed a pass of this size yet first build their kernels, so they get more time.
    """
    usual = max(PASS_S, 1.0 + PASS_FACTOR * expected_ms / 1000) * min(CROWDED_MOST, max(1.0, crowding))
    return until_known_s(usual, familiar=familiar)


def _number(member: RingMember) -> int | None:
    """Returns the number of the worker's device for a slice; None for a worker that an agent started, which offers
    only the needed devices."""
    lent = member.process.devices if member.process else []
    return lent.index(member.slice.device) if member.slice.device in lent else None


def rpc_plan(assembly: PoolAssembly, endpoints: Mapping[str, str]) -> PoolPlan:
    """Returns the assembly as a plan for the engine. `endpoints`: the address of each member's process."""
    placement = assembly.placement
    assert placement is not None
    shares: list[tuple[bool, LayerShare]] = []
    for member in assembly.members:
        piece = member.slice
        endpoint = endpoints[f"{piece.node} {piece.process}"] if piece.process else ""
        share = LayerShare(piece.end - piece.first, endpoint, piece.device, _number(member))
        if share.layers or (piece.head and not share.on_host):
            shares.append((piece.head and not share.on_host, share))
    here = [share for _, share in shares if share.on_host]
    away = [share for last, share in shares if not share.on_host and not last]
    behind = [share for last, share in shares if last]
    head_here = any(piece.head and piece.node == placement.home and piece.device == CPU for piece in placement.slices)
    far = {member.slice.node for member in assembly.processes.values()}
    rtt_ms = sum(placement.links.get(node, 0.0) for node in far)
    return PoolPlan((*here, *away, *behind), head_here, rtt_ms)


def shown_piece(holder: str, piece: Slice | StageReady) -> str:
    """Returns in words who holds which layers."""
    layers = f"layers {piece.first}-{piece.end - 1}" if piece.end > piece.first else "no layers"
    return f"{holder} {layers}{', head' if piece.head else ''}"
