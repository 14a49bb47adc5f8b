"""The coordinator's mind: wanted and observed in, the next action out, or None when all is as it should be.

Level-triggered: nothing is remembered between calls but what `Observed` holds, so that lost, doubled and late messages
heal at the next look.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

import msgspec

from twd.coordinator.advice import place_or_advise, size
from twd.coordinator.devices import Found, find_devices
from twd.coordinator.drafters import DRAFTERS, WantedDrafter, assigned, problem, wish
from twd.coordinator.given import all_given
from twd.coordinator.guests import WorkerKey, left_for
from twd.coordinator.layers import quotas, refused
from twd.coordinator.measured import Paces, retimed, with_paces
from twd.coordinator.placement import Demand, Device, Link, Piece, Placement, Shape, near_first, place, seconds
from twd.coordinator.processes import WantedModel, belongs, process_of, stage_of, standby_wishes, wishes
from twd.coordinator.standby import carried, filled, promoted, trimmed, wants_more
from twd.coordinator.taken import READY, free_for, is_ready, left_on, overdrawn, promised, room, total
from twd.kit.settings import Pool
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.node import CPU, ModelFile, NodeFacts, ProcessFacts, ProcessUnwanted, ProcessWanted
from twd.wire.placement import PlacementDecided, Slice
from twd.wire.reading import read_as

OWN_PREFIXES: Final = ("rpc.pool.", "stage.pool.", DRAFTERS)
RETRY_S: Final = 5.0
MOVE_S: Final = 45.0
"""A model that goes elsewhere has so long to do it at a good moment, from when everything is there on."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings ask for."""

    home: NodeId
    coordinator: InstanceId
    pool: Pool
    models: tuple[WantedModel, ...] = ()
    drafters: tuple[WantedDrafter, ...] = ()


@dataclass(slots=True)
class Observed:
    """What is there now, and what was decided and tried so far."""

    nodes: Mapping[NodeId, NodeFacts] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)
    served: Collection[str] = ()
    """Models that are loaded."""
    homes: Mapping[str, NodeId] = field(default_factory=dict)
    """Where the process that serves a model is, by its own word; without one it is expected beside the coordinator."""
    decided: dict[str, PlacementDecided] = field(default_factory=dict)
    changed_at: dict[str, float] = field(default_factory=dict)
    """When each model went elsewhere last."""
    ready_at: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """When each process was seen ready first."""
    basis: dict[str, str] = field(default_factory=dict)
    """What each decision rested on: it is made anew only when that changes."""
    tried: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """When a machine was asked last for a process."""
    held: Mapping[WorkerKey, str] = field(default_factory=dict)
    """Workers of guests, each with the place whose speculator holds it."""
    paces: Paces = field(default_factory=dict)
    """What devices were measured to do."""
    _machines: tuple[Mapping[NodeId, NodeFacts], dict[bool, str]] | None = None

    def looked(self, now: float) -> None:
        """Remember which processes are ready, or were so before something befell them."""
        seen = ((facts.node, process) for facts in self.nodes.values() for process in facts.processes)
        self.ready_at = {
            key: self.ready_at.get(key, now)
            for node, process in seen
            if (key := (node, process.process)) in self.ready_at or process.state == READY
        }

    def machines(self, by_free: bool) -> str:
        """What of all machines a decision rests on: their memory, and what of it is free where that counts."""
        if self._machines is None or self._machines[0] is not self.nodes:
            self._machines = (self.nodes, {})
        known = self._machines[1]
        if by_free not in known:
            known[by_free] = repr(sorted(_machine(facts, by_free) for facts in self.nodes.values()))
        return known[by_free]


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
    return (
        _decide(wanted, observed)
        or _stand_by(wanted, observed)
        or _retime(wanted, observed)
        or _stop(wanted, observed, now)
        or _start(wanted, observed, now)
    )


# -- where models go -----------------------------------------------------------------------------------


def _decide(wanted: Wanted, observed: Observed) -> Decide | None:
    for model in wanted.models if observed.nodes else ():  # with nobody there yet, nothing can be said
        known, home = observed.decided.get(model.name), home_of(wanted, observed, model)
        if known is not None and fits(known) and home not in observed.nodes:
            continue  # its agent comes back, or its speculator turns up elsewhere: nothing is torn down for that
        if known is None or observed.basis.get(model.name) != basis_of(model, observed, known, home, wanted.pool):
            decision = _taken_over(wanted, observed, model, home) or carried(decide(wanted, observed, model), known)
            return Decide(decision, basis_of(model, observed, decision, home, wanted.pool))
    return None


def _taken_over(wanted: Wanted, observed: Observed, model: WantedModel, home: NodeId) -> PlacementDecided | None:
    """Where machines left, and spares are ready for all that they held: these serve, and nothing else moves."""
    known = observed.decided.get(model.name)
    if known is None or known.home != home or model.name not in observed.basis:
        return None
    kept = promoted(known, observed.nodes)
    whole = all(piece.node in observed.nodes for piece in kept.slices)
    return kept if whole and {piece.node for piece in known.slices} - observed.nodes.keys() else None


def _stand_by(wanted: Wanted, observed: Observed) -> Decide | None:
    """The spares of what is decided. There are none while any model has no place: it may need their room."""
    placed = [observed.decided.get(model.name) for model in wanted.models if model.shape is not None]
    whole = all(decision is not None and fits(decision) for decision in placed)
    count = wanted.pool.standby if wanted.pool.engine == "ring" and whole else 0
    full = overdrawn(observed.nodes, observed.decided)
    for model in wanted.models:
        known = observed.decided.get(model.name)
        if known is None or not fits(known) or known.home not in observed.nodes:
            continue
        better = trimmed(promoted(known, observed.nodes), observed.nodes, count, full)
        if wants_more(better, count):
            better = with_spares(wanted, observed, model, better)
        if better != known:
            return Decide(better, observed.basis.get(model.name, ""))
    return None


def _retime(wanted: Wanted, observed: Observed) -> Decide | None:
    """What was foretold, corrected by what was measured since; nothing moves for that."""
    for model in wanted.models if observed.paces else ():
        known = observed.decided.get(model.name)
        if known is None or model.shape is None:
            continue
        better = retimed(known, model.shape, observed.paces)
        if better is not known:
            return Decide(better, observed.basis.get(model.name, ""))
    return None


def with_spares(wanted: Wanted, observed: Observed, model: WantedModel, decision: PlacementDecided) -> PlacementDecided:
    """Spares in the room that was promised to nobody, on machines that could hold slices of the model, too."""
    if model.shape is None:
        return decision
    decided = {**observed.decided, model.name: decision}
    pool, home = wanted.pool, decision.home
    seen = all_given(observed.nodes, pool, home)
    nodes = free_for("", seen, decided, observed.served)
    devices = with_paces(
        without_other_files(find_devices(nodes, pool, home), nodes, wanted, model).devices, observed.paces
    )
    left = left_on(devices, seen, decided)
    return filled(decision, pool.standby, model.shape, devices, left, None if pool.layers_at_home else home)


def moved(before: PlacementDecided, now: PlacementDecided) -> bool:
    """Whether anything goes elsewhere, and not only other figures are told."""
    return [_where(piece) for piece in before.slices] != [_where(piece) for piece in now.slices]


def _where(piece: Slice) -> tuple[NodeId, str, str, int, int, bool]:
    return (piece.node, piece.device, piece.process, piece.first, piece.end, piece.head)


def fits(decision: PlacementDecided) -> bool:
    """Whether the model has a place."""
    return not decision.missing_bytes


def basis_of(model: WantedModel, observed: Observed, known: PlacementDecided, home: NodeId, pool: Pool) -> str:
    """What a decision rests on. Free memory moves while a model loads, and other models' places while they move: these
    count only while the model has no place."""
    told = msgspec.structs.replace(pool, key="")
    placed, decided = fits(known), observed.decided
    others = {} if placed else promised({name: decided[name] for name in decided if name != model.name})
    held = [] if placed else sorted(worker for worker, place in observed.held.items() if place != model.name)
    copies = _copies(model, observed, known) if pool.engine == "ring" else []
    asked = (home, model.ctx, model.sessions, model.problem, model.shape, told, sorted(others.items()), held, copies)
    return hashlib.sha256(f"{observed.machines(not placed)} {asked!r}".encode()).hexdigest()[:32]


def _copies(model: WantedModel, observed: Observed, known: PlacementDecided) -> list[NodeId]:
    """Machines that have the model's file. One that has its slice may lose the file: what serves goes on."""
    serving, file = {piece.node for piece in (*known.slices, *known.spares)}, model.file
    return sorted(n for n, facts in observed.nodes.items() if file and (n in serving or not file_problem(facts, file)))


def _machine(facts: NodeFacts, by_free: bool) -> tuple[object, ...]:
    return (
        facts.node,
        facts.machine,
        facts.memory.total,
        _steps(facts.memory.available) if by_free else 0,
        [(gpu.name, gpu.total, _steps(gpu.free) if by_free else 0) for gpu in facts.gpus],
    )


def _steps(free: int) -> int:
    return free // (512 * 1024**2)


def decide(wanted: Wanted, observed: Observed, model: WantedModel) -> PlacementDecided:
    """Where one model goes now."""
    wanted = replace(wanted, home=home_of(wanted, observed, model))
    seen = all_given(observed.nodes, wanted.pool, wanted.home)
    free = free_for(model.name, seen, observed.decided, observed.served)
    nodes = left_for(model.name, free, observed.decided, observed.held)
    found = without_other_files(find_devices(nodes, wanted.pool, wanted.home), nodes, wanted, model)
    if model.shape is None:
        return _refused(wanted, model, model.problem)
    home = found.homes.get(wanted.home)
    if home is None:
        return _refused(wanted, model, f"the agent of {wanted.home} is not on the bus; `twd run agent` starts it")
    split = split_of(wanted.pool)
    if split and (why := wrong_split(split, found) or refused_split(split, model.shape)):
        return _refused(wanted, model, why)
    demand = Demand(model.ctx, model.sessions, home, wanted.pool.engine, split)
    placement = _place(model.shape, with_paces(found.devices, observed.paces), wanted, observed, demand)
    return to_wire(wanted, model, placement, found.notes, observed.links)


def home_of(wanted: Wanted, observed: Observed, model: WantedModel) -> NodeId:
    """Where the model is served; where that process is away for a moment, where it was."""
    known, before = observed.homes.get(model.name), observed.decided.get(model.name)
    if known is None and before is not None and before.home in observed.nodes:
        return before.home
    return known or wanted.home


def _place(shape: Shape, devices: Sequence[Device], wanted: Wanted, observed: Observed, demand: Demand) -> Placement:
    """As the settings prefer it; where that does not fit, on whatever there is."""
    away = [device for device in devices if wanted.pool.layers_at_home or device.node != wanted.home]
    if wanted.pool.split == "even":
        away = near_first(away, observed.links, wanted.home)
        for some in (_quickest(away), away):
            evenly = place(shape, some, observed.links, replace(demand, split=(1.0,) * len(some))) if some else None
            if evenly is not None and evenly.fits:
                return evenly
    if len(away) < len(devices) and away and not demand.split:
        others = place(shape, away, observed.links, demand)
        if others.fits:
            return others
    return place_or_advise(shape, devices, observed.links, demand)


def _quickest(devices: Sequence[Device]) -> list[Device]:
    """A machine that has a GPU computes on that: its processor would hold the others up."""
    with_gpu = {device.node for device in devices if device.name != CPU}
    return [device for device in devices if device.name != CPU or device.node not in with_gpu]


def without_other_files(found: Found, nodes: Sequence[NodeFacts], wanted: Wanted, model: WantedModel) -> Found:
    """In a ring each machine cuts its slice from its own copy: one that has none, or another, is left out."""
    if wanted.pool.engine != "ring" or model.file is None:
        return found
    why = {facts.node: text for facts in nodes if (text := file_problem(facts, model.file))}
    devices = tuple(device for device in found.devices if device.node not in why)
    return replace(found, devices=devices, notes=(*found.notes, *(f"{node} is left out: {why[node]}" for node in why)))


def file_problem(facts: NodeFacts, file: ModelFile) -> str:
    """Why a machine cannot cut a slice from its copy of a model; empty when it can."""
    if any(known.hash == file.hash for known in facts.models):
        return ""
    named = [known for known in facts.models if known.name == file.name]
    if not named:
        return f"it has no copy of {file.name}; copy the file into a folder of agent.model_dirs there"
    return (
        f"its {file.name} is another file than the one at home ({named[0].hash[:8]} there, {file.hash[:8]} here); "
        "copy it anew"
    )


def split_of(pool: Pool) -> tuple[float, ...]:
    """The configured shares, one for each device, if there are any."""
    return pool.split if isinstance(pool.split, tuple) else ()


def wrong_split(split: tuple[float, ...], found: Found) -> str:
    """Why shares and devices do not go together; empty where they do."""
    if len(split) == len(found.devices):
        return ""
    listed = ", ".join(f"{device.node}/{device.name}" for device in found.devices) or "none"
    return f"pool.split has {len(split)} shares for {len(found.devices)} devices ({listed}); give each device one"


def refused_split(split: tuple[float, ...], shape: Shape) -> str:
    """Why a model cannot be cut into such shares; empty where it can."""
    why = refused(quotas(split, len(shape.layer_bytes), shape.cuts.multiple), shape.cuts)
    return f"pool.split cannot be kept: {why}; change the shares, or leave it at auto" if why else ""


def to_wire(
    wanted: Wanted,
    model: WantedModel,
    placement: Placement,
    notes: tuple[str, ...] = (),
    links: Mapping[str, Link] | None = None,
) -> PlacementDecided:
    """A placement as everybody may read it."""
    missing = () if placement.fits else (f"{size(placement.missing_bytes)} of memory are missing",)
    nodes = {piece.device.node for piece in placement.pieces}
    return PlacementDecided(
        model=ModelId(model.serves),
        replica=model.replica,
        coordinator=wanted.coordinator,
        slices=[_slice(wanted, model, placement, piece) for piece in placement.pieces],
        missing_bytes=placement.missing_bytes,
        notes=[*missing, *notes],
        helps=list(placement.helps),
        plain_tok_s=round(placement.plain_tok_s, 2),
        speculative_tok_s=round(placement.speculative_tok_s, 2),
        engine=wanted.pool.engine,
        home=wanted.home,
        links={node: round(link.rtt_s * 1000, 3) for node, link in (links or {}).items() if node in nodes},
        bandwidths={n: int(link.bytes_s) for n, link in (links or {}).items() if n in nodes and link.measured},
    )


def _slice(wanted: Wanted, model: WantedModel, placement: Placement, piece: Piece) -> Slice:
    device = piece.device
    return Slice(
        node=NodeId(device.node),
        device=device.name,
        first=piece.first,
        end=piece.end,
        weight_bytes=piece.weight_bytes,
        kv_bytes=piece.kv_bytes,
        other_bytes=piece.other_bytes,
        free_bytes=device.free,
        head=piece.head,
        ms=round(seconds(piece, model.shape) * 1000, 3) if model.shape else 0.0,
        process=_process(wanted, model, placement, piece),
    )


def _process(wanted: Wanted, model: WantedModel, placement: Placement, piece: Piece) -> str:
    """Who holds a slice: a worker of its machine, a stage of the ring, or the process that serves the model."""
    node = piece.device.node
    if piece.device.process:
        return piece.device.process
    if wanted.pool.engine == "ring":
        return stage_of(model, piece.first, piece.end, piece.head, piece.device.name)
    if wanted.pool.engine != "rpc" or node == wanted.home:
        return ""
    return process_of(model.name, [p.device.name for p in placement.pieces if p.device.node == node])


def _refused(wanted: Wanted, model: WantedModel, why: str) -> PlacementDecided:
    return PlacementDecided(
        model=ModelId(model.serves), replica=model.replica, coordinator=wanted.coordinator, missing_bytes=1, notes=[why]
    )


# -- processes ----------------------------------------------------------------------------------------


def _wishes(wanted: Wanted, observed: Observed) -> Iterator[ProcessWanted]:
    return wishes(wanted.models, wanted.pool.engine, observed.decided, observed.nodes)


def _assigned(wanted: Wanted, observed: Observed) -> Iterator[tuple[WantedDrafter, NodeId | None]]:
    if not wanted.drafters:
        return iter(())
    nodes = free_for("", observed.nodes, observed.decided, observed.served)
    free = [facts for facts in nodes if not facts.guest]
    return assigned(wanted.drafters, free, observed.decided, wanted.home)


def _drafters(wanted: Wanted, observed: Observed) -> Iterator[ProcessWanted]:
    return (wish(drafter, node) for drafter, node in _assigned(wanted, observed) if node is not None)


def idle_drafters(wanted: Wanted, observed: Observed) -> list[str]:
    """Drafters that no machine runs, each with the reason."""
    return [problem(drafter, observed.nodes) for drafter, node in _assigned(wanted, observed) if node is None]


def _spares(wanted: Wanted, observed: Observed) -> Iterator[tuple[WantedModel, ProcessWanted]]:
    return standby_wishes(wanted.models, observed.decided, observed.nodes)


def _serves(decision: PlacementDecided, observed: Observed) -> bool:
    """Whether all slices of a model are in memory: only then its spares take machines' time to load."""
    return all(is_ready(piece, observed.nodes) for piece in decision.slices)


def _wanted_now(observed: Observed) -> Iterator[Slice]:
    """What processes of all models hold, or will as soon as they are started."""
    for decision in observed.decided.values():
        pieces = (*decision.slices, *(decision.spares if _serves(decision, observed) else ()))
        yield from (piece for piece in pieces if piece.process)


def _start(wanted: Wanted, observed: Observed, now: float) -> Start | None:
    spares = (spare for model, spare in _spares(wanted, observed) if _serves(observed.decided[model.name], observed))
    for due in (*_wishes(wanted, observed), *_drafters(wanted, observed), *spares):
        facts = observed.nodes.get(due.node)
        if facts is None or any(known.process == due.process for known in facts.processes):
            continue
        if now - observed.tried.get((due.node, due.process), -inf) >= RETRY_S:
            return Start(due)
    return None


def _stop(wanted: Wanted, observed: Observed, now: float) -> Stop | None:
    """End what is not due any more; what a model moves away from is left to it for a while, where there is room."""
    spares = (spare for _, spare in _spares(wanted, observed))
    wishes_now = (*_wishes(wanted, observed), *_drafters(wanted, observed), *spares)
    due = {(one.node, one.process) for one in wishes_now}
    for facts in observed.nodes.values():
        for known in facts.processes:
            key = (facts.node, known.process)
            if not known.process.startswith(OWN_PREFIXES) or key in due or _moves(wanted, observed, facts, known, now):
                continue
            if now - observed.tried.get(key, -inf) >= RETRY_S:
                return Stop(ProcessUnwanted(node=facts.node, process=known.process))
    return None


def _moves(wanted: Wanted, observed: Observed, facts: NodeFacts, known: ProcessFacts, now: float) -> bool:
    """Whether a model may still use this process, while its new ones load beside it."""
    if known.process.startswith(DRAFTERS) or (facts.node, known.process) not in observed.ready_at:
        return False
    model = next((model.name for model in wanted.models if belongs(known.process, model.name)), None)
    if model is None or now - _arrived_at(observed, model) >= MOVE_S:
        return False
    running = {one.process for one in facts.processes}
    coming = [s for s in _wanted_now(observed) if s.node == facts.node and s.process not in running]
    return sum(total(piece) for piece in coming) <= room(facts, {piece.device for piece in coming})


def _arrived_at(observed: Observed, model: str) -> float:
    """When everything that was decided for a model was there; in the future where something never was yet."""
    decision = observed.decided.get(model)
    due = [(piece.node, piece.process) for piece in decision.slices if piece.process] if decision else []
    return max([observed.changed_at.get(model, -inf), *(observed.ready_at.get(key, inf) for key in due)])


# -- who decides ---------------------------------------------------------------------------------------


class CoordinatorLease(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides now: the value of the coordinators' key in the registry."""

    instance: InstanceId
    node: NodeId
    pid: int


def read_coordinator(value: bytes) -> CoordinatorLease | None:
    """The same from the registry; None for anything else."""
    return read_as(CoordinatorLease, value)


def may_act(now: float, renewed_at: float, lease_s: float) -> bool:
    """Whether our right to decide is fresh enough that nobody else can have it yet."""
    return now - renewed_at < lease_s * 0.6
