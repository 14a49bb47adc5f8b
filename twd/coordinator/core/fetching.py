"""The placement that a model shall have once machines without its file have fetched their layers, and the requests that
lead there. Level-triggered: each turn compares what is lacking with what is on its way."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Final

import msgspec

from twd.coordinator.core.memory_ledger import is_there, promised
from twd.coordinator.core.model_placement import decide, home_of
from twd.coordinator.core.placement.values import ASSUMED, MachineLink
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.state import Aim, ObservedState, SetAim, StartProcess, StartPull, StopPull, WantedState
from twd.coordinator.core.stores import fetchers, has_file, has_layers, layers_of, sources_for
from twd.engine.host_memory.limits import gib
from twd.wire.base import NodeId
from twd.wire.node import ModelFile, ProcessKind, ProcessWanted
from twd.wire.placement import Fetch, PlacementDecided, Slice
from twd.wire.swarm import Fetching, LayerRange, PullUnwanted, PullWanted

SWARM: Final = "swarm"
SWARM_S: Final = 3.0
"""Seconds to wait for a machine's own swarm service, before its agent is asked to start one."""
AGAIN_S: Final = 5.0
FAILED_S: Final = 30.0
"""Seconds until a fetch that failed is tried again."""


# -- the aim ---------------------------------------------------------------------------------------


def aim(wanted: WantedState, observed: ObservedState) -> SetAim | None:
    """Return the next aim that must be made anew; None when all are up to date."""
    if wanted.pool.engine != "ring" or wanted.pool.fetch == "off" or not observed.nodes:
        return None
    for model in wanted.models:
        home = home_of(wanted, observed, model)
        if model.shape is None or model.file is None or home not in observed.nodes:
            continue
        known = observed.aims.get(model.name)
        if known is None and not fetchers(observed.nodes.values(), observed.stores, model.file):
            continue
        if known is None or known.basis != _basis(wanted, observed, model, home, known):
            made = Aim(_aimed(wanted, observed, model), "")
            return SetAim(model.name, Aim(made.decision, _basis(wanted, observed, model, home, made)))
    return None


def _aimed(wanted: WantedState, observed: ObservedState, model: WantedModel) -> PlacementDecided | None:
    """Return the best placement with machines that fetch; None where it needs none of them, or there is no room."""
    assert model.file is not None
    if not fetchers(observed.nodes.values(), observed.stores, model.file):
        return None
    decision = decide(wanted, observed, model, fetch=True)
    found = [facts for piece in decision.slices if (facts := observed.nodes.get(piece.node)) is not None]
    if decision.missing_bytes or all(has_file(facts, model.file.hash) for facts in found):
        return None
    return msgspec.structs.replace(decision, fetches=list(_fetches(observed, model.file, decision)))


def _basis(wanted: WantedState, observed: ObservedState, model: WantedModel, home: NodeId, known: Aim) -> str:
    """Return a hash of what an aim depends on. Free memory counts only while there is no aim: it changes while models
    load."""
    assert model.file is not None
    unplaced, nodes = known.decision is None, observed.nodes.values()
    others = promised({name: one for name, one in observed.decided.items() if name != model.name}) if unplaced else {}
    have = sorted(facts.node for facts in nodes if has_file(facts, model.file.hash))
    may = sorted(fetchers(nodes, observed.stores, model.file))
    pool = msgspec.structs.replace(wanted.pool, key="")
    asked = (home, model.ctx, model.sessions, model.shape, pool, sorted(others.items()), have, may)
    return hashlib.sha256(f"{observed.machines(unplaced)} {asked!r}".encode()).hexdigest()[:32]


def _fetches(observed: ObservedState, file: ModelFile, decision: PlacementDecided) -> Iterator[Fetch]:
    pieces = list(_lacking(observed, file, decision.slices))
    nodes = observed.nodes
    for piece in pieces:
        sources = sources_for(nodes[piece.node], nodes.values(), observed.stores, file.hash)
        size = piece.weight_bytes + piece.other_bytes
        yield Fetch(node=piece.node, layers=layers_of(piece), bytes=size, sources=sources)


def fetch_seconds(decision: PlacementDecided, links: Mapping[str, MachineLink]) -> float:
    """Return about how long the fetches of a decision take: each machine by its own link, and all by those of the
    sources."""
    if not decision.fetches:
        return 0.0
    by_node: dict[str, float] = {}
    for one in decision.fetches:
        by_node[one.node] = by_node.get(one.node, 0.0) + one.bytes / links.get(one.node, ASSUMED).bytes_s
    sources = {source for one in decision.fetches for source in one.sources}
    quickest = max(links.get(one.node, ASSUMED).bytes_s for one in decision.fetches)
    together = sum(one.bytes for one in decision.fetches) / (quickest * max(1, len(sources)))
    return max(together, *by_node.values())


def fetch_line(decision: PlacementDecided, links: Mapping[str, MachineLink]) -> str:
    """Return in words what machines fetch before all of them can serve; empty where they need nothing."""
    if not decision.fetches:
        return ""
    size = sum(one.bytes for one in decision.fetches)
    sources = ", ".join(dict.fromkeys(source for one in decision.fetches for source in one.sources))
    nodes = ", ".join(dict.fromkeys(one.node for one in decision.fetches))
    return f"{nodes}: fetch {gib(size)} from {sources}: about {fetch_seconds(decision, links):.0f} s"


def arrived(observed: ObservedState, model: WantedModel) -> bool:
    """Whether a model has an aim of which nothing is lacking."""
    known = observed.aims.get(model.name)
    if known is None or known.decision is None or model.file is None:
        return False
    return not any(_lacking(observed, model.file, known.decision.slices))


def pending(observed: ObservedState, model: WantedModel) -> PlacementDecided | None:
    """Return the aim of a model of which something is lacking."""
    known = observed.aims.get(model.name)
    return known.decision if known is not None and not arrived(observed, model) else None


def works(observed: ObservedState, model: WantedModel, decision: PlacementDecided) -> bool:
    """Whether a decision can be carried out now: all machines are there, and have what they are to hold."""
    there = all(piece.node in observed.nodes for piece in decision.slices)
    return there and model.file is not None and not any(_lacking(observed, model.file, decision.slices))


def _lacking(observed: ObservedState, file: ModelFile, pieces: Iterable[Slice]) -> Iterator[Slice]:
    """Yield the slices whose machines have neither the file, nor the slice, nor a process that holds it."""
    for piece in pieces:
        facts = observed.nodes.get(piece.node)
        if facts is None or facts.guest or not piece.process or is_there(piece, observed.nodes):
            continue
        if not has_layers(facts, observed.stores.get(piece.node), file.hash, layers_of(piece)):
            yield piece


# -- requests ----------------------------------------------------------------------------------------


def start(wanted: WantedState, observed: ObservedState, now: float) -> StartPull | StartProcess | None:
    """Return a request for layers that are lacking, or for a swarm service that they need; None where there is none."""
    for file, piece in _wanted_now(wanted, observed):
        facts = observed.nodes[piece.node]
        sources = sources_for(facts, observed.nodes.values(), observed.stores, file.hash)
        for node in (piece.node, *sources):
            if (service := service_for(observed, node, now)) is not None:
                return service
        if piece.node in observed.stores and any(source in observed.stores for source in sources):
            wish = PullWanted(node=piece.node, hash=file.hash, file=f"{file.name}.gguf", layers=layers_of(piece))
            if _is_due(observed, wish, now):
                return StartPull(wish)
    return None


def stop(wanted: WantedState, observed: ObservedState, now: float) -> StopPull | None:
    """Return a request to stop a fetch that no aim needs; None where there is none."""
    needed = {(piece.node, file.hash, layers_of(piece)) for file, piece in _wanted_now(wanted, observed)}
    ours = {model.file.hash for model in wanted.models if model.file is not None}
    for node, seen in observed.stores.items():
        for job in seen.store.fetching:
            key = (node, f"stop {pull_name(job.hash, job.layers)}")
            unwanted = job.hash in ours and not job.problem and (node, job.hash, job.layers) not in needed
            if unwanted and now - observed.tried.get(key, -inf) >= AGAIN_S:
                return StopPull(PullUnwanted(node=node, root="", hash=job.hash, layers=job.layers))
    return None


def pull_name(hash_: str, layers: LayerRange | None) -> str:
    """Return a short name of a wish for layers."""
    if layers is None:
        return hash_[:8]
    return f"{hash_[:8]}.{layers.first}-{layers.end}{'.head' if layers.head else ''}"


def _wanted_now(wanted: WantedState, observed: ObservedState) -> Iterator[tuple[ModelFile, Slice]]:
    """Yield the slices that are lacking: those of all aims, then those of spares."""
    if wanted.pool.engine != "ring" or wanted.pool.fetch == "off":
        return
    models = [(model, model.file) for model in wanted.models if model.file is not None]
    for model, file in models:
        known = observed.aims.get(model.name)
        pieces = known.decision.slices if known is not None and known.decision is not None else ()
        yield from ((file, piece) for piece in _lacking(observed, file, pieces))
    for model, file in models:
        decision = observed.decided.get(model.name)
        pieces = decision.spares if decision is not None else ()
        yield from ((file, piece) for piece in _lacking(observed, file, pieces))


def service_for(observed: ObservedState, node: NodeId, now: float) -> StartProcess | None:
    """Return a request for a machine's swarm service, where none runs and it was not asked for just now."""
    facts = observed.nodes.get(node)
    since = observed.storeless_since.get(node)
    if facts is None or since is None or now - since < SWARM_S:
        return None
    if any(known.process == SWARM for known in facts.processes):
        return None
    if now - observed.tried.get((node, SWARM), -inf) < AGAIN_S:
        return None
    return StartProcess(ProcessWanted(node=node, process=SWARM, kind=ProcessKind.SWARM))


def _is_due(observed: ObservedState, wish: PullWanted, now: float) -> bool:
    assert wish.layers is not None
    job = observed.stores[wish.node].fetches(wish.hash, wish.layers)
    if job is not None and not job.problem:
        return False
    tried = observed.tried.get((wish.node, pull_name(wish.hash, wish.layers)), -inf)
    return now - tried >= (FAILED_S if job is not None else AGAIN_S)


# -- words -------------------------------------------------------------------------------------------


def remarks(wanted: WantedState, observed: ObservedState) -> list[str]:
    """Return a line for each model whose layers are on their way, and one for each machine that cannot fetch."""
    told: list[str] = []
    for model in wanted.models:
        if model.file is None or (decision := pending(observed, model)) is None:
            continue
        pieces = list(_lacking(observed, model.file, decision.slices))
        jobs = [_job(observed, model.file, piece) for piece in pieces]
        nodes = ", ".join(dict.fromkeys(piece.node for piece in pieces))
        size = sum(piece.weight_bytes + piece.other_bytes for piece in pieces)
        told.append(f"{model.name}: fetching {gib(size)} for {nodes}{_progress(jobs)}")
        for piece, job in zip(pieces, jobs, strict=True):
            if job is not None and job.problem:
                told.append(
                    f"{piece.node} cannot fetch layers {piece.first}-{piece.end} of {model.name}: {job.problem}"
                )
    return told


def _job(observed: ObservedState, file: ModelFile, piece: Slice) -> Fetching | None:
    seen = observed.stores.get(piece.node)
    return seen.fetches(file.hash, layers_of(piece)) if seen is not None else None


def _progress(jobs: list[Fetching | None]) -> str:
    running = [job for job in jobs if job is not None and job.total_bytes]
    if not running:
        return ""
    done, whole = sum(job.done_bytes for job in running), sum(job.total_bytes for job in running)
    share = f", {done / whole:.0%} of what is on its way"
    if any(not job.bytes_s and job.done_bytes < job.total_bytes for job in running):
        return share
    left = (
        max((job.total_bytes - job.done_bytes) / job.bytes_s for job in running if job.bytes_s) if done < whole else 0
    )
    return f"{share}, about {left:.0f} s to go"
