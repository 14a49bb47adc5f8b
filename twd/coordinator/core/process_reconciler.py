"""Which processes to start on machines, and which to stop, so that the decisions are carried out."""

from collections.abc import Iterator
from math import inf
from typing import Final

from twd.coordinator.core.drafter_fetches import target_of
from twd.coordinator.core.drafters import DRAFTERS, WantedDrafter, assigned, problem, wish
from twd.coordinator.core.memory_ledger import free_for, is_ready, room, total
from twd.coordinator.core.processes import WantedModel, belongs, standby_wishes, wishes
from twd.coordinator.core.state import ObservedState, StartProcess, StopProcess, WantedState
from twd.coordinator.core.stores import has_layers
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts, ProcessFacts, ProcessUnwanted, ProcessWanted, StageWanted
from twd.wire.placement import PlacementDecided, Slice
from twd.wire.swarm import LayerRange

OWN_PREFIXES: Final = ("rpc.pool.", "stage.pool.", DRAFTERS)
RETRY_S: Final = 5.0
MOVE_S: Final = 45.0
"""Seconds that a model has to move at a good moment, after all its new processes are ready."""


def start(wanted: WantedState, observed: ObservedState, now: float) -> StartProcess | None:
    """Return a request for a process that is needed and not there; None where there is none."""
    spares = (spare for model, spare in _spares(wanted, observed) if _serves(observed.decided[model.name], observed))
    unread = [model.name for model in wanted.models if model.shape is None]
    for due in (*_wishes(wanted, observed), *_drafters(wanted, observed), *spares):
        facts = observed.nodes.get(due.node)
        if due.stage is not None and any(belongs(due.process, name) for name in unread):
            continue  # its file is unknown here
        if facts is None or any(known.process == due.process for known in facts.processes):
            continue
        if wanted.pool.fetch != "off" and due.stage is not None and _lacks(observed, facts, due.stage):
            continue  # its layers have not come yet
        if now - observed.tried.get((due.node, due.process), -inf) >= RETRY_S:
            return StartProcess(due)
    return None


def _lacks(observed: ObservedState, facts: NodeFacts, stage: StageWanted) -> bool:
    layers = LayerRange(first=stage.first, end=stage.end, head=stage.head)
    return bool(stage.hash) and not has_layers(facts, observed.stores.get(facts.node), stage.hash, layers)


def stop(wanted: WantedState, observed: ObservedState, now: float) -> StopProcess | None:
    """Return a request to stop a process that is no longer needed. Old processes of a moving model stay for a while,
    where there is room."""
    spares = (spare for _, spare in _spares(wanted, observed))
    wishes_now = (*_wishes(wanted, observed), *_drafters(wanted, observed), *spares)
    due = {(one.node, one.process) for one in wishes_now}
    for facts in observed.nodes.values():
        for known in facts.processes:
            key = (facts.node, known.process)
            if not known.process.startswith(OWN_PREFIXES) or key in due or _moves(wanted, observed, facts, known, now):
                continue
            if now - observed.tried.get(key, -inf) >= RETRY_S:
                return StopProcess(ProcessUnwanted(node=facts.node, process=known.process))
    return None


def _moves(wanted: WantedState, observed: ObservedState, facts: NodeFacts, known: ProcessFacts, now: float) -> bool:
    """Whether a model may still use this process while its new ones load."""
    if known.process.startswith(DRAFTERS) or (facts.node, known.process) not in observed.ready_at:
        return False
    model = next((model.name for model in wanted.models if belongs(known.process, model.name)), None)
    if model is None or now - _arrived_at(observed, model) >= MOVE_S:
        return False
    running = {one.process for one in facts.processes}
    coming = [s for s in _wanted_now(observed) if s.node == facts.node and s.process not in running]
    return sum(total(piece) for piece in coming) <= room(facts, {piece.device for piece in coming})


def _arrived_at(observed: ObservedState, model: str) -> float:
    """Return when all that was decided for a model was ready; infinity where something never was."""
    decision = observed.decided.get(model)
    due = [(piece.node, piece.process) for piece in decision.slices if piece.process] if decision else []
    return max([observed.changed_at.get(model, -inf), *(observed.ready_at.get(key, inf) for key in due)])


def idle_drafters(wanted: WantedState, observed: ObservedState) -> list[str]:
    """Drafters that no machine runs, each with the reason."""
    told = []
    for drafter, node in drafter_places(wanted, observed):
        target = target_of(wanted, observed, drafter, node)
        if target is not None:
            told.append(f"drafter {drafter.name}: {target} fetches its file")
        elif node is None:
            told.append(problem(drafter, observed.nodes))
    return told


def _wishes(wanted: WantedState, observed: ObservedState) -> Iterator[ProcessWanted]:
    return wishes(wanted.models, wanted.pool.engine, observed.decided, observed.nodes)


def drafter_places(wanted: WantedState, observed: ObservedState) -> Iterator[tuple[WantedDrafter, NodeId | None]]:
    """Yield each drafter with the machine that runs it; None: nowhere now."""
    if not wanted.drafters:
        return iter(())
    nodes = free_for("", observed.nodes, observed.decided, observed.served)
    free = [facts for facts in nodes if not facts.guest]
    return assigned(wanted.drafters, free, observed.decided, wanted.home)


def _drafters(wanted: WantedState, observed: ObservedState) -> Iterator[ProcessWanted]:
    for drafter, node in drafter_places(wanted, observed):
        if node is not None and target_of(wanted, observed, drafter, node) is None:  # else its file must come first
            yield wish(drafter, node)


def _spares(wanted: WantedState, observed: ObservedState) -> Iterator[tuple[WantedModel, ProcessWanted]]:
    return standby_wishes(wanted.models, observed.decided, observed.nodes)


def _serves(decision: PlacementDecided, observed: ObservedState) -> bool:
    """Whether all slices of a model are in memory: only then its spares may be loaded."""
    return all(is_ready(piece, observed.nodes) for piece in decision.slices)


def _wanted_now(observed: ObservedState) -> Iterator[Slice]:
    """Yield the slices that processes of all models hold, or will hold."""
    for decision in observed.decided.values():
        pieces = (*decision.slices, *(decision.spares if _serves(decision, observed) else ()))
        yield from (piece for piece in pieces if piece.process)
