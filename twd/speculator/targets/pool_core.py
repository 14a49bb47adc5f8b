"""What a pooled model waits for, and where its parts are: the coordinator's decision and the agents' leases in one."""

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
"""A pass that takes so much longer than expected hangs."""

CROWDED_MOST: Final = 4.0

Signature = tuple[tuple[str, str, str, int, int, bool], ...]


@dataclass(frozen=True, slots=True)
class RingMember:
    """One slice, and the process that holds it; none where the process that serves the model does so itself."""

    slice: Slice
    process: ProcessFacts | None = None
    stage: StageReady | None = None
    """What a ring's stage says of itself, with the address where others reach it."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it is reached."""
        return (self.process.host, self.process.port) if self.process else ("", 0)

    @property
    def key(self) -> tuple[NodeId, str]:
        """Its machine and its process."""
        return (self.slice.node, self.slice.process)

    @property
    def is_guest(self) -> bool:
        """Whether its worker was there already, and serves whoever comes first."""
        return self.process is not None and bool(self.process.devices)

    @property
    def name(self) -> str:
        """In status and messages."""
        return f"{self.slice.node}/{self.slice.device}"


@dataclass(frozen=True, slots=True)
class PlacementHistory:
    """Which processes the model was served over until now, and which stages could not be reached."""

    held: Collection[tuple[NodeId, str]] = ()
    lost: Collection[InstanceId] = ()


@dataclass(frozen=True, slots=True)
class PoolAssembly:
    """A placement with everything that is there of it."""

    placement: PlacementDecided | None = None
    members: tuple[RingMember, ...] = ()
    waits_for: tuple[str, ...] = ()
    """In words; empty when all is there."""
    device: DeviceKind = DeviceKind.ELSEWHERE
    """On what of the machine that serves the model its layers are computed."""

    @property
    def complete(self) -> bool:
        """Whether the model can be loaded."""
        return self.placement is not None and not self.waits_for

    @property
    def signature(self) -> Signature:
        """Equal for assemblies between which nothing has to be done."""
        pieces = (member.slice for member in self.members)
        return tuple((s.node, s.device, s.process, s.first, s.end, s.head) for s in pieces)

    @property
    def stages(self) -> list[StageReady]:
        """Those of a ring, in its order."""
        return [member.stage for member in self.members if member.stage is not None]

    @property
    def processes(self) -> dict[str, RingMember]:
        """The members that are processes of their own, each once."""
        return {f"{m.slice.node} {m.slice.process}": m for m in self.members if m.process is not None}


def assemble(
    placement: PlacementDecided | None,
    nodes: Mapping[NodeId, NodeFacts],
    stages: Mapping[tuple[NodeId, int], StageReady] | None = None,
    habit: PlacementHistory = PlacementHistory(),
) -> PoolAssembly:
    """Find the process of each slice, or of a spare of it; say what is missing. `stages` by machine and process id."""
    if placement is None:
        return PoolAssembly(waits_for=("the coordinator's decision",))
    if placement.missing_bytes:
        return PoolAssembly(placement, waits_for=("; ".join([*placement.notes, *placement.helps])[:900],))
    members = [_chosen(piece, placement.spares, nodes, stages or {}, habit) for piece in placement.slices]
    waits = dict.fromkeys(_waits_for(member, nodes) for member in members)
    waiting = tuple(text for text in waits if text)
    return PoolAssembly(placement, tuple(members), waiting, _device_here(placement, nodes))


def _device_here(placement: PlacementDecided, nodes: Mapping[NodeId, NodeFacts]) -> DeviceKind:
    """Played machines are the one that serves the model, too."""
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
    """Who holds a slice: the one that did until now, else its own process, else a spare; whichever is ready."""
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
    if member.stage is not None:  # this very process says so, and its agent need not have looked yet
        return ""
    if process.state != READY:
        return f"{piece.node}'s {what} ({process.state}{': ' + process.note if process.note else ''})"
    if process.kind is ProcessKind.STAGE:
        return f"{piece.node}'s stage, which loads its slice"
    return ""


def replaced(loaded: PoolAssembly, now: PoolAssembly) -> str:
    """Which process of a loaded model is another one by now, by its agent's word; empty when none is.

    A machine of which nothing is heard is no such case: the broker may just have come back with an empty registry.
    """
    for key, member in loaded.processes.items():
        before, current = member.process, now.processes.get(key)
        process = current.process if current else None
        if before is not None and process is not None and (process.pid, process.state) != (before.pid, READY):
            return f"{member.name} was lost"
    return ""


def silent(loaded: PoolAssembly, now: PoolAssembly) -> str:
    """Which machine of a loaded model nothing is heard of; empty when all are there."""
    away = [member for key, member in loaded.processes.items() if key not in now.processes]
    return f"nothing is heard of {away[0].slice.node}" if away else ""


def uses_of(members: Iterable[RingMember], before: Iterable[GuestUse]) -> list[GuestUse]:
    """The guests' workers that a model is about to hold; one that could not be used counts so until it can."""
    known = {(use.node, use.process): use for use in before}
    keys = [member.key for member in members if member.is_guest]
    return [known.get(key) or GuestUse(node=key[0], process=key[1]) for key in keys]


def after_reaching(uses: Iterable[GuestUse], problems: Mapping[tuple[NodeId, str], str]) -> list[GuestUse]:
    """What is told of guests' workers after the handshakes: where one part of a pool is missing, none is held."""
    told = [
        GuestUse(node=use.node, process=use.process, problem=problems.get((use.node, use.process), "")) for use in uses
    ]
    return [use for use in told if use.problem or not problems]


def still_placed(uses: Sequence[GuestUse], now: PoolAssembly) -> list[GuestUse]:
    """What was told of guests' workers, without those that the model does not need any more."""
    slices = now.placement.slices if now.placement else []
    needed = {(piece.node, piece.process) for piece in slices}
    return [use for use in uses if (use.node, use.process) in needed]


def pass_deadline_s(expected_ms: float, crowding: float = 1.0, *, familiar: bool = True) -> float:
    """How long a pass may take before a worker counts as hung: longer where so many processes share each core.

    Devices that have computed none of its size yet make their kernels first: these are waited for.
    """
    usual = max(PASS_S, 1.0 + PASS_FACTOR * expected_ms / 1000) * min(CROWDED_MOST, max(1.0, crowding))
    return until_known_s(usual, familiar=familiar)


def _number(member: RingMember) -> int | None:
    """Which device of its worker a slice is for; a worker that an agent started lends just those that are needed."""
    lent = member.process.devices if member.process else []
    return lent.index(member.slice.device) if member.slice.device in lent else None


def rpc_plan(assembly: PoolAssembly, endpoints: Mapping[str, str]) -> PoolPlan:
    """An assembly in the engine's words; `endpoints` says where each member's process is reached from here."""
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
    """Who holds which layers, in words."""
    layers = f"layers {piece.first}-{piece.end - 1}" if piece.end > piece.first else "no layers"
    return f"{holder} {layers}{', head' if piece.head else ''}"
