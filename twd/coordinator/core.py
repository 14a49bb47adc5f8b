"""The coordinator's mind: wanted and observed in, the next action out, or None when all is as it should be.

Level-triggered: nothing is remembered between calls but what `Observed` holds, so that lost, doubled and late messages
heal at the next look.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from twd.coordinator.advice import place_or_advise, size
from twd.coordinator.devices import CPU, Found, device_name, find_devices
from twd.coordinator.placement import Demand, Link, Placement, Shape
from twd.kit.settings import Pool
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.node import NodeFacts, ProcessKind, ProcessUnwanted, ProcessWanted
from twd.wire.placement import PlacementDecided, Slice

OWN_PREFIX: Final = "rpc.pool."
RETRY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model that is to run over the pool; without a shape, `problem` says why it cannot."""

    name: str
    ctx: int
    sessions: int
    shape: Shape | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings ask for."""

    home: NodeId
    coordinator: InstanceId
    pool: Pool
    models: tuple[WantedModel, ...] = ()


@dataclass(slots=True)
class Observed:
    """What is there now, and what was decided and tried so far."""

    nodes: Mapping[NodeId, NodeFacts] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)
    decided: dict[str, PlacementDecided] = field(default_factory=dict)
    basis: dict[str, str] = field(default_factory=dict)
    """What each decision rested on: it is made anew only when that changes."""
    tried: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """When a machine was asked last for a process."""


@dataclass(frozen=True, slots=True)
class Decide:
    """Tell everybody where a model goes."""

    decision: PlacementDecided
    basis: str


@dataclass(frozen=True, slots=True)
class Start:
    """Ask a machine for a process."""

    wish: ProcessWanted


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a machine to end one."""

    wish: ProcessUnwanted


Action = Decide | Start | Stop


def plan(wanted: Wanted, observed: Observed, now: float) -> Action | None:
    """The one next thing to do."""
    return _decide(wanted, observed) or _stop(wanted, observed, now) or _start(wanted, observed, now)


# -- where models go -----------------------------------------------------------------------------------


def _decide(wanted: Wanted, observed: Observed) -> Decide | None:
    for model in wanted.models if observed.nodes else ():  # with nobody there yet, nothing can be said
        known = observed.decided.get(model.name)
        if known is None or observed.basis.get(model.name) != basis_of(model, observed, fits(known)):
            decision = decide(wanted, observed, model)
            return Decide(decision, basis_of(model, observed, fits(decision)))
    return None


def fits(decision: PlacementDecided) -> bool:
    """Whether the model has a place."""
    return not decision.missing_bytes


def basis_of(model: WantedModel, observed: Observed, fits: bool) -> str:
    """What a decision rests on. Free memory moves while a model loads: it counts only while the model has no place."""
    nodes = [
        (
            facts.node,
            facts.machine,
            facts.memory.total,
            0 if fits else _steps(facts.memory.available),
            [(gpu.name, gpu.total, 0 if fits else _steps(gpu.free)) for gpu in facts.gpus],
        )
        for facts in observed.nodes.values()
    ]
    return repr((sorted(nodes), model.ctx, model.sessions, model.problem, hash(model.shape)))


def _steps(free: int) -> int:
    return free // (512 * 1024**2)


def decide(wanted: Wanted, observed: Observed, model: WantedModel) -> PlacementDecided:
    """Where one model goes now."""
    found = find_devices(_with_own_freed(observed, model), wanted.pool, wanted.home)
    if model.shape is None:
        return _refused(wanted, model, model.problem)
    home = found.homes.get(wanted.home)
    if home is None:
        return _refused(wanted, model, f"the agent of {wanted.home} is not on the bus; `twd run agent` starts it")
    demand = Demand(model.ctx, model.sessions, home, wanted.pool.engine, split_of(wanted.pool))
    if demand.split and len(demand.split) != len(found.devices):
        return _refused(wanted, model, wrong_split(demand.split, found))
    placement = place_or_advise(model.shape, found.devices, observed.links, demand)
    return to_wire(wanted, model.name, placement, found.notes)


def split_of(pool: Pool) -> tuple[float, ...]:
    """The configured shares, if there are any."""
    return pool.split if isinstance(pool.split, tuple) else ()


def wrong_split(split: tuple[float, ...], found: Found) -> str:
    """Why shares and devices do not go together."""
    listed = ", ".join(f"{device.node}/{device.name}" for device in found.devices) or "none"
    return f"pool.split has {len(split)} shares for {len(found.devices)} devices ({listed}); give each device one"


def _with_own_freed(observed: Observed, model: WantedModel) -> list[NodeFacts]:
    """Machines as they are without this model: what its own workers hold may be planned again."""
    decided = observed.decided.get(model.name)
    if decided is None:
        return list(observed.nodes.values())
    own = process_of(model.name)
    return [
        _freed(facts, decided) if any(p.process == own and p.state == "ready" for p in facts.processes) else facts
        for facts in observed.nodes.values()
    ]


def _freed(facts: NodeFacts, decided: PlacementDecided) -> NodeFacts:
    held: dict[str, int] = {}
    for piece in decided.slices:
        if piece.node == facts.node:
            held[piece.device] = held.get(piece.device, 0) + piece.weight_bytes + piece.kv_bytes + piece.other_bytes
    memory = facts.memory
    return msgspec.structs.replace(
        facts,
        memory=msgspec.structs.replace(memory, available=min(memory.total, memory.available + held.get(CPU, 0))),
        gpus=[
            msgspec.structs.replace(gpu, free=min(gpu.total, gpu.free + held.get(device_name(gpu), 0)))
            for gpu in facts.gpus
        ],
    )


def to_wire(wanted: Wanted, model: str, placement: Placement, notes: tuple[str, ...] = ()) -> PlacementDecided:
    """A placement as everybody may read it."""
    slices = [
        Slice(
            node=NodeId(piece.device.node),
            device=piece.device.name,
            first=piece.first,
            end=piece.end,
            weight_bytes=piece.weight_bytes,
            kv_bytes=piece.kv_bytes,
            other_bytes=piece.other_bytes,
            free_bytes=piece.device.free,
            head=piece.head,
        )
        for piece in placement.pieces
    ]
    missing = () if placement.fits else (f"{size(placement.missing_bytes)} of memory are missing",)
    return PlacementDecided(
        model=ModelId(model),
        coordinator=wanted.coordinator,
        slices=slices,
        missing_bytes=placement.missing_bytes,
        notes=[*missing, *notes],
        helps=list(placement.helps),
        plain_tok_s=round(placement.plain_tok_s, 2),
        speculative_tok_s=round(placement.speculative_tok_s, 2),
    )


def _refused(wanted: Wanted, model: WantedModel, why: str) -> PlacementDecided:
    return PlacementDecided(model=ModelId(model.name), coordinator=wanted.coordinator, missing_bytes=1, notes=[why])


# -- workers -------------------------------------------------------------------------------------------


def process_of(model: str) -> str:
    """The name of a model's workers, which is also their log's."""
    return OWN_PREFIX + (re.sub(r"[^A-Za-z0-9_-]+", "-", model)[:48].strip("-") or "model")


def workers(wanted: Wanted, observed: Observed) -> Iterator[tuple[NodeId, str]]:
    """Which machine runs which worker, if all is as decided. Only RPC has workers that stand alone."""
    if wanted.pool.engine != "rpc":
        return
    for model in wanted.models:
        decided = observed.decided.get(model.name)
        far = {piece.node for piece in decided.slices if piece.node != wanted.home} if decided else set()
        yield from ((node, process_of(model.name)) for node in sorted(far))


def _start(wanted: Wanted, observed: Observed, now: float) -> Start | None:
    for node, process in workers(wanted, observed):
        facts = observed.nodes.get(node)
        if facts is None or any(known.process == process for known in facts.processes):
            continue
        if now - observed.tried.get((node, process), float("-inf")) >= RETRY_S:
            return Start(ProcessWanted(node=node, process=process, kind=ProcessKind.RPC))
    return None


def _stop(wanted: Wanted, observed: Observed, now: float) -> Stop | None:
    due = set(workers(wanted, observed))
    for facts in observed.nodes.values():
        for known in facts.processes:
            ours = known.process.startswith(OWN_PREFIX) and (facts.node, known.process) not in due
            if ours and now - observed.tried.get((facts.node, known.process), float("-inf")) >= RETRY_S:
                return Stop(ProcessUnwanted(node=facts.node, process=known.process))
    return None


# -- who decides ---------------------------------------------------------------------------------------


class CoordinatorLease(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides now: the value of the coordinators' key in the registry."""

    instance: InstanceId
    node: NodeId
    pid: int


def read_coordinator(value: bytes) -> CoordinatorLease | None:
    """The same from the registry; None for anything else."""
    try:
        return msgspec.json.decode(value, type=CoordinatorLease)
    except msgspec.MsgspecError:
        return None


def may_act(now: float, renewed_at: float, lease_s: float) -> bool:
    """Whether our right to decide is fresh enough that nobody else can have it yet."""
    return now - renewed_at < lease_s * 0.6
