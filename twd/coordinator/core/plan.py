"""Planning: takes the wanted and the observed state, returns the next action, or None when nothing is to do.

Only `ObservedState` is remembered between calls, so lost, repeated and late messages are corrected in the next turn.
"""

import hashlib

import msgspec

from twd.coordinator.core import drafter_fetches, fetching, process_reconciler
from twd.coordinator.core.measured import retimed
from twd.coordinator.core.memory_ledger import overdrawn, promised
from twd.coordinator.core.model_placement import decide, file_problem, home_of, with_spares
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.readers import holders
from twd.coordinator.core.standby import carried, promoted, trimmed, wants_more
from twd.coordinator.core.state import Action, DecidePlacement, ObservedState, WantedState
from twd.coordinator.core.stores import has_file
from twd.settings.model import PoolConfig
from twd.wire.base import NodeId
from twd.wire.placement import PlacementDecided, Slice


def plan(wanted: WantedState, observed: ObservedState, now: float) -> Action | None:
    """Return the next action; None when nothing is to do."""
    return (
        fetching.aim(wanted, observed)
        or _decide(wanted, observed)
        or _stand_by(wanted, observed)
        or _retime(wanted, observed)
        or process_reconciler.stop(wanted, observed, now)
        or process_reconciler.start(wanted, observed, now)
        or fetching.stop(wanted, observed, now)
        or fetching.start(wanted, observed, now)
        or drafter_fetches.start(wanted, observed, process_reconciler.drafter_places(wanted, observed), now)
    )


def _decide(wanted: WantedState, observed: ObservedState) -> DecidePlacement | None:
    for model in wanted.models if observed.nodes else ():  # without any machine nothing can be decided
        known, home = observed.decided.get(model.name), home_of(wanted, observed, model)
        if known is not None and fits(known) and (home not in observed.nodes or model.shape is None):
            # Its agent comes back, or its speculator turns up elsewhere; or only another coordinator can read its file.
            continue  # a working placement stays
        if known is not None and _waits_for_better(observed, model, known):
            continue
        if known is None or observed.basis.get(model.name) != basis_of(model, observed, known, home, wanted.pool):
            decision = _taken_over(wanted, observed, model, home) or carried(_best(wanted, observed, model), known)
            return DecidePlacement(decision, basis_of(model, observed, decision, home, wanted.pool))
    return None


def _best(wanted: WantedState, observed: ObservedState, model: WantedModel) -> PlacementDecided:
    """Return the aim where all its layers have come; else what fits on machines that have the file, which serves until
    then; else the aim, whose missing stages start when their layers have come."""
    aim = observed.aims.get(model.name)
    aimed = aim.decision if aim is not None else None
    if aimed is not None and fetching.arrived(observed, model):
        return msgspec.structs.replace(aimed, fetches=[])
    now = decide(wanted, observed, model)
    if aimed is None or not fits(now):
        return aimed or now
    return msgspec.structs.replace(now, fetches=aimed.fetches)


def _waits_for_better(observed: ObservedState, model: WantedModel, known: PlacementDecided) -> bool:
    """Whether a placement with fetched layers goes on until those of another one have come."""
    if fetching.pending(observed, model) is None or model.file is None or not fits(known):
        return False
    alone = any(not has_file(observed.nodes[p.node], model.file.hash) for p in known.slices if p.node in observed.nodes)
    return alone and fetching.works(observed, model, known)


def _taken_over(
    wanted: WantedState, observed: ObservedState, model: WantedModel, home: NodeId
) -> PlacementDecided | None:
    """Return the decision with spares in place of slices on lost machines, if these cover all of them; else None."""
    known = observed.decided.get(model.name)
    if known is None or known.home != home or model.name not in observed.basis:
        return None
    kept = promoted(known, observed.nodes)
    whole = all(piece.node in observed.nodes for piece in kept.slices)
    return kept if whole and {piece.node for piece in known.slices} - observed.nodes.keys() else None


def _stand_by(wanted: WantedState, observed: ObservedState) -> DecidePlacement | None:
    """Update the spares of decisions. There are none while any model has no place: it may need their room."""
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
            return DecidePlacement(better, observed.basis.get(model.name, ""))
    return None


def _retime(wanted: WantedState, observed: ObservedState) -> DecidePlacement | None:
    """Update the forecast of a decision by measured times; nothing moves."""
    for model in wanted.models if observed.paces else ():
        known = observed.decided.get(model.name)
        if known is None or model.shape is None:
            continue
        better = retimed(known, model.shape, observed.paces)
        if better is not known:
            return DecidePlacement(better, observed.basis.get(model.name, ""))
    return None


def moved(before: PlacementDecided, now: PlacementDecided) -> bool:
    """Whether any slice has moved, and not only figures have changed."""
    return [_where(piece) for piece in before.slices] != [_where(piece) for piece in now.slices]


def _where(piece: Slice) -> tuple[NodeId, str, str, int, int, bool]:
    return (piece.node, piece.device, piece.process, piece.first, piece.end, piece.head)


def fits(decision: PlacementDecided) -> bool:
    """Whether the model has a place."""
    return not decision.missing_bytes


def basis_of(
    model: WantedModel, observed: ObservedState, known: PlacementDecided, home: NodeId, pool: PoolConfig
) -> str:
    """Return a hash of what a decision depends on. Free memory and other models' placements count only while the model
    has no place, since they change while models load."""
    told = msgspec.structs.replace(pool, key="")
    placed, decided = fits(known), observed.decided
    others = {} if placed else promised({name: decided[name] for name in decided if name != model.name})
    held = [] if placed else sorted(worker for worker, place in observed.held.items() if place != model.name)
    copies = _copies(model, observed, known) if pool.engine == "ring" else []
    if model.shape is None:
        copies = holders(model, observed.nodes)
    aim = observed.aims.get(model.name)
    aimed: tuple[object, ...] = ()
    if aim is not None and aim.decision is not None:  # the same machines may have had another aim before
        aimed = (aim.basis, fetching.arrived(observed, model), *map(_where, aim.decision.slices))
    sizes = (model.ctx, model.sessions, model.problem, model.shape)
    asked = (home, *sizes, told, sorted(others.items()), held, copies, aimed)
    return hashlib.sha256(f"{observed.machines(not placed)} {asked!r}".encode()).hexdigest()[:32]


def _copies(model: WantedModel, observed: ObservedState, known: PlacementDecided) -> list[NodeId]:
    """Return the machines that have the model's file; one that holds a slice counts even without the file."""
    serving, file = {piece.node for piece in (*known.slices, *known.spares)}, model.file
    return sorted(n for n, facts in observed.nodes.items() if file and (n in serving or not file_problem(facts, file)))
