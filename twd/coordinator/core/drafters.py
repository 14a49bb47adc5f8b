"""Which machine runs which draft model: the named one, else the one with the least work, outside of the pool if
possible."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from twd.coordinator.core.machines.device_names import usable
from twd.coordinator.core.placement.values import MIB, RESERVE_BYTES
from twd.coordinator.core.processes import word
from twd.engine.host_memory.limits import gib
from twd.wire.base import NodeId
from twd.wire.node import DrafterWanted, ModelFile, NodeFacts, ProcessKind, ProcessWanted
from twd.wire.placement import PlacementDecided

DRAFTERS: Final = "drafter.pool."
WORKING_BYTES: Final = 256 * MIB
"""Bytes that a draft model takes besides its file."""
STEP_BYTES: Final = 4 * 1024 * MIB
"""Free memory is compared in steps of so many bytes: a smaller difference makes no machine better."""

Decisions = Mapping[str, PlacementDecided]


@dataclass(frozen=True, slots=True)
class WantedDrafter:
    """A draft model of the settings; `file` is read where the coordinator runs, if it is there."""

    process: str
    file: ModelFile
    node: str = ""
    """The machine that must run it; empty: any."""
    name: str = ""
    for_model: str = ""
    ctx_size: int = 0
    threads: int = 0
    gpu_layers: str = ""


def process_name(name: str, file: ModelFile, number: int) -> str:
    """Return the name of a drafter's process and log; another file or place in the settings gives another name."""
    return f"{DRAFTERS}{word(name)}.{number}" + (f".{file.hash[:8]}" if file.hash else "")


def assigned(
    drafters: Sequence[WantedDrafter],
    free: Sequence[NodeFacts],
    decided: Decisions,
    home: NodeId,
) -> Iterator[tuple[WantedDrafter, NodeId | None]]:
    """Yield each drafter with the machine that runs it; None: nowhere now. `free` are machines with the memory that was
    promised to nobody."""
    beside: Counter[NodeId] = Counter()
    for drafter in drafters:
        pooled = _targets(drafter, decided)
        able = [facts for facts in free if _runs(drafter, facts) or _able(drafter, facts, home)]
        usable = (facts for facts in able if not drafter.node or facts.node == drafter.node)
        rank = {facts.node: _rank(drafter, facts, pooled, beside, home) for facts in usable}
        node = min(rank, key=lambda known: rank[known], default=None)
        if node is not None:
            beside[node] += 1
        yield drafter, node


def wish(drafter: WantedDrafter, node: NodeId) -> ProcessWanted:
    """Return the request to a machine for this drafter."""
    told = DrafterWanted(
        name=drafter.name,
        path=drafter.file.path,
        hash=drafter.file.hash,
        for_model=drafter.for_model,
        ctx_size=drafter.ctx_size,
        gpu_layers=drafter.gpu_layers,
    )
    return ProcessWanted(
        node=node, process=drafter.process, kind=ProcessKind.DRAFTER, threads=drafter.threads, drafter=told
    )


def problem(drafter: WantedDrafter, nodes: Mapping[NodeId, NodeFacts]) -> str:
    """Return why no machine runs it, and what to do."""
    if drafter.node and drafter.node not in nodes:
        return f"drafter {drafter.name}: its machine {drafter.node} is not on the bus; start `twd run agent` there"
    where = drafter.node or "a machine"
    return (
        f"drafter {drafter.name} runs nowhere: copy {drafter.file.path} into a folder of agent.model_dirs of {where} "
        f"with {gib(_needed(drafter))} of memory free"
    )


def _targets(drafter: WantedDrafter, decided: Decisions) -> set[NodeId]:
    """Return the machines that hold layers of the models it drafts for."""
    mine = (known for known in decided.values() if drafter.for_model in ("", known.model))
    return {piece.node for known in mine for piece in known.slices}


def _runs(drafter: WantedDrafter, facts: NodeFacts) -> bool:
    return any(known.process == drafter.process for known in facts.processes)


def _able(drafter: WantedDrafter, facts: NodeFacts, home: NodeId) -> bool:
    """Whether a machine has the file, and room for it; always True if the settings name a machine, whose agent reports
    problems."""
    if drafter.node:
        return True
    file = drafter.file
    same = any(known.hash == file.hash if file.hash else known.path == file.path for known in facts.models)
    here = facts.node == home and not file.problem
    return (same or here) and _room(facts) >= _needed(drafter)


def _room(facts: NodeFacts) -> int:
    return max((facts.memory.available, *(gpu.free for gpu in usable(facts)))) - RESERVE_BYTES


def fits(drafter: WantedDrafter, facts: NodeFacts) -> bool:
    """Whether a machine has the memory for a draft model."""
    return _room(facts) >= _needed(drafter)


def _needed(drafter: WantedDrafter) -> int:
    return drafter.file.size_bytes + WORKING_BYTES


def _rank(
    drafter: WantedDrafter, facts: NodeFacts, pooled: set[NodeId], beside: Counter[NodeId], home: NodeId
) -> tuple[object, ...]:
    """Return the sort key, the smallest is the best: outside of the target's pool, then where it runs already, then by
    free resources."""
    on_gpu = any(gpu.free >= _needed(drafter) for gpu in usable(facts))
    return (
        facts.node in pooled,
        not _runs(drafter, facts),
        beside[facts.node],
        not on_gpu,
        -facts.cpu.cores,
        -(_room(facts) // STEP_BYTES),
        facts.node != home,
        facts.node,
    )
