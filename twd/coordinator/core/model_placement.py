"""Placement of one model: its devices, its slices and its spares on the machines that are there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from twd.coordinator.core.advice import place_or_advise
from twd.coordinator.core.layers import quotas, refused
from twd.coordinator.core.machines.agentless_hosts import left_for
from twd.coordinator.core.machines.configured_devices import all_given
from twd.coordinator.core.machines.devices import UsableDevices, find_devices
from twd.coordinator.core.measured import reads_of, with_paces
from twd.coordinator.core.memory_ledger import free_for, left_on
from twd.coordinator.core.placement.search import near_first, place
from twd.coordinator.core.placement.timing import seconds
from twd.coordinator.core.placement.values import (
    DeviceShare,
    MachineLink,
    ModelShape,
    Placement,
    PlacementDemand,
    PlacementDevice,
)
from twd.coordinator.core.processes import WantedModel, process_of, stage_of
from twd.coordinator.core.readers import why_unplanned
from twd.coordinator.core.standby import filled
from twd.coordinator.core.state import ObservedState, WantedState
from twd.coordinator.core.stores import fetchers
from twd.coordinator.core.streamed import place_streamed
from twd.engine.host_memory.limits import gib
from twd.settings.model import PoolConfig
from twd.wire.base import ModelId, NodeId
from twd.wire.node import CPU, ModelFile, NodeFacts
from twd.wire.placement import PlacementDecided, Slice


def decide(
    wanted: WantedState, observed: ObservedState, model: WantedModel, *, fetch: bool = False
) -> PlacementDecided:
    """Return the placement of one model now, or why it has none. `fetch`: also on machines that must fetch layers."""
    if model.shape is None:
        return _refused(wanted, model, why_unplanned(model, wanted.home, observed.nodes))
    wanted = replace(wanted, home=home_of(wanted, observed, model))
    seen = all_given(observed.nodes, wanted.pool, wanted.home)
    free = free_for(model.name, seen, observed.decided, observed.served)
    nodes = left_for(model.name, free, observed.decided, observed.held)
    found = _found(nodes, wanted, model, wanted.home, _may_fetch(wanted, observed, model), fetch=fetch)
    home = found.homes.get(wanted.home)
    if home is None:
        return _refused(wanted, model, f"the agent of {wanted.home} is not on the bus; `twd run agent` starts it")
    split = split_of(wanted.pool)
    if split and (why := wrong_split(split, found) or refused_split(split, model.shape)):
        return _refused(wanted, model, why)
    demand = PlacementDemand(model.ctx, model.sessions, home, wanted.pool.engine, split)
    placement = _place(model.shape, _measured(wanted, observed, found), wanted, observed, demand)
    return to_wire(wanted, model, placement, found.notes, observed.links)


def with_spares(
    wanted: WantedState, observed: ObservedState, model: WantedModel, decision: PlacementDecided
) -> PlacementDecided:
    """Return the decision with spares in memory promised to nobody, on machines that could hold slices of the model."""
    if model.shape is None:
        return decision
    decided = {**observed.decided, model.name: decision}
    pool, home = wanted.pool, decision.home
    seen = all_given(observed.nodes, pool, home)
    nodes = free_for("", seen, decided, observed.served)
    may_fetch = _may_fetch(wanted, observed, model)
    devices = _measured(wanted, observed, _found(nodes, wanted, model, home, may_fetch, fetch=True))
    left = left_on(devices, seen, decided)
    return filled(decision, pool.standby, model.shape, devices, left, None if pool.layers_at_home else home)


def _measured(wanted: WantedState, observed: ObservedState, found: UsableDevices) -> tuple[PlacementDevice, ...]:
    """Return devices with the speeds that stages measured there."""
    reads = reads_of((one.serves, one.shape) for one in wanted.models)
    return with_paces(found.devices, observed.paces, reads)


def _may_fetch(wanted: WantedState, observed: ObservedState, model: WantedModel) -> dict[NodeId, int]:
    if wanted.pool.engine != "ring" or wanted.pool.fetch == "off" or model.file is None:
        return {}
    return fetchers(observed.nodes.values(), observed.stores, model.file)


def _found(
    nodes: Sequence[NodeFacts],
    wanted: WantedState,
    model: WantedModel,
    home: NodeId,
    may_fetch: Mapping[NodeId, int],
    *,
    fetch: bool = False,
) -> UsableDevices:
    """Return the devices that may hold layers of a model."""
    pool = wanted.pool
    if model.on_cpus:
        nodes = [facts if facts.guest else msgspec.structs.replace(facts, gpus=[]) for facts in nodes]
        pool = msgspec.structs.replace(pool, gpus=(), workers=())
    return without_other_files(find_devices(nodes, pool, home), nodes, wanted, model, may_fetch, fetch=fetch)


def home_of(wanted: WantedState, observed: ObservedState, model: WantedModel) -> NodeId:
    """Return the machine that serves the model; while its process is away, the machine of the last decision."""
    known, before = observed.homes.get(model.name), observed.decided.get(model.name)
    if known is None and before is not None and before.home in observed.nodes:
        return before.home
    return known or wanted.home


def _place(
    shape: ModelShape,
    devices: Sequence[PlacementDevice],
    wanted: WantedState,
    observed: ObservedState,
    demand: PlacementDemand,
) -> Placement:
    """Return the placement that the settings prefer; where that does not fit, one on any devices."""
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
    placement = place_or_advise(shape, devices, observed.links, demand)
    if placement.fits:
        return placement
    return place_streamed(shape, devices, observed.links, demand) or placement


def _quickest(devices: Sequence[PlacementDevice]) -> list[PlacementDevice]:
    """Leave out the CPUs of machines with a GPU: they would slow the others down."""
    with_gpu = {device.node for device in devices if device.name != CPU}
    return [device for device in devices if device.name != CPU or device.node not in with_gpu]


def without_other_files(
    found: UsableDevices,
    nodes: Sequence[NodeFacts],
    wanted: WantedState,
    model: WantedModel,
    may_fetch: Mapping[NodeId, int],
    *,
    fetch: bool = False,
) -> UsableDevices:
    """Leave out machines without the right model file: in a ring each machine cuts its slice from its own copy.

    `may_fetch`: machines that may fetch their layers, with the bytes that they may take; with `fetch` they stay.
    """
    if wanted.pool.engine != "ring" or model.file is None:
        return found
    why = {facts.node: text for facts in nodes if (text := file_problem(facts, model.file))}
    out = {NodeId(node) for node in why if not (fetch and node in may_fetch)}
    devices = tuple(_within(device, may_fetch) for device in found.devices if device.node not in out)
    notes = (f"{node} is left out: {why[node]}" for node in why if node not in may_fetch)
    return replace(found, devices=devices, notes=(*found.notes, *notes))


def _within(device: PlacementDevice, may_fetch: Mapping[NodeId, int]) -> PlacementDevice:
    """Return a device with no more room than its machine's disk has for layers that it must fetch."""
    most = may_fetch.get(NodeId(device.node))
    return device if most is None else replace(device, free=min(device.free, most))


def file_problem(facts: NodeFacts, file: ModelFile) -> str:
    """Return why a machine cannot cut a slice from its copy of a model; empty when it can."""
    if any(known.hash == file.hash for known in facts.models):
        return ""
    named = [known for known in facts.models if known.name == file.name]
    if not named:
        return f"it has no copy of {file.name}; copy the file into a folder of agent.model_dirs there"
    return (
        f"its {file.name} is another file than the one at home ({named[0].hash[:8]} there, {file.hash[:8]} here); "
        "copy it anew"
    )


def split_of(pool: PoolConfig) -> tuple[float, ...]:
    """Return the configured shares, one for each device; empty where there are none."""
    return pool.split if isinstance(pool.split, tuple) else ()


def wrong_split(split: tuple[float, ...], found: UsableDevices) -> str:
    """Return why the shares do not match the devices; empty where they do."""
    if len(split) == len(found.devices):
        return ""
    listed = ", ".join(f"{device.node}/{device.name}" for device in found.devices) or "none"
    return f"pool.split has {len(split)} shares for {len(found.devices)} devices ({listed}); give each device one"


def refused_split(split: tuple[float, ...], shape: ModelShape) -> str:
    """Return why a model cannot be cut into these shares; empty where it can."""
    why = refused(quotas(split, len(shape.layer_bytes), shape.cuts.multiple), shape.cuts)
    return f"pool.split cannot be kept: {why}; change the shares, or leave it at auto" if why else ""


def to_wire(
    wanted: WantedState,
    model: WantedModel,
    placement: Placement,
    notes: tuple[str, ...] = (),
    links: Mapping[str, MachineLink] | None = None,
) -> PlacementDecided:
    """Return a placement as the event that is published."""
    missing = () if placement.fits else (f"{gib(placement.missing_bytes)} of memory are missing",)
    nodes = {piece.device.node for piece in placement.pieces}
    return PlacementDecided(
        model=ModelId(model.serves),
        replica=model.replica,
        coordinator=wanted.coordinator,
        slices=[_slice(wanted, model, placement, piece) for piece in placement.pieces],
        missing_bytes=placement.missing_bytes,
        notes=[*missing, *placement.notes, *notes],
        helps=list(placement.helps),
        plain_tok_s=round(placement.plain_tok_s, 2),
        speculative_tok_s=round(placement.speculative_tok_s, 2),
        engine=wanted.pool.engine,
        home=wanted.home,
        links={node: round(link.rtt_s * 1000, 3) for node, link in (links or {}).items() if node in nodes},
        bandwidths={n: int(link.bytes_s) for n, link in (links or {}).items() if n in nodes and link.measured},
    )


def _slice(wanted: WantedState, model: WantedModel, placement: Placement, piece: DeviceShare) -> Slice:
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
        disk_bytes=piece.disk_bytes,
        moe_memory=model.shape.mixture.memory(piece.first, piece.end, piece.disk_bytes) if model.shape else 0,
    )


def _process(wanted: WantedState, model: WantedModel, placement: Placement, piece: DeviceShare) -> str:
    """Return the process that holds a slice: an RPC worker or a stage; empty: the process that serves the model."""
    node = piece.device.node
    if piece.device.process:
        return piece.device.process
    if wanted.pool.engine == "ring":
        return stage_of(model, piece.first, piece.end, piece.head, piece.device.name)
    if wanted.pool.engine != "rpc" or node == wanted.home:
        return ""
    return process_of(model.name, [p.device.name for p in placement.pieces if p.device.node == node])


def _refused(wanted: WantedState, model: WantedModel, why: str) -> PlacementDecided:
    return PlacementDecided(
        model=ModelId(model.serves), replica=model.replica, coordinator=wanted.coordinator, missing_bytes=1, notes=[why]
    )


def in_words(decision: PlacementDecided) -> str:
    """Return where a model goes, for the log."""
    if decision.missing_bytes:
        return "has no place: " + "; ".join([*decision.notes, *decision.helps])
    pieces = (f"{piece.node}/{piece.device} {piece.first}-{piece.end}" for piece in decision.slices)
    spares = (f"{piece.node}/{piece.device} {piece.first}-{piece.end}" for piece in decision.spares)
    return ", ".join(pieces) + (f"; spares: {', '.join(spares)}" if decision.spares else "")
