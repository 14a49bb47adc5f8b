"""The processes of a pooled model: their names, and the requests to machines."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from twd.coordinator.core.machines.device_names import device_name
from twd.coordinator.core.placement.values import ModelShape
from twd.wire.base import NodeId
from twd.wire.node import CPU, ModelFile, NodeFacts, ProcessKind, ProcessWanted, StageWanted
from twd.wire.placement import PlacementDecided, Slice

WORD_MAX: Final = 28
LENT_MAX: Final = 26
"""With both words at their longest, a worker's name has the 64 characters that agents allow."""
DIGEST: Final = 6


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model, or one of its replicas, to run over the pool; without a shape, `problem` says why it cannot."""

    name: str
    """The place's name: that of the model, with a number where it has several replicas."""
    ctx: int
    sessions: int
    shape: ModelShape | None = None
    problem: str = ""
    file: ModelFile | None = None
    """The file at home: every machine of a ring needs the same one."""
    type_k: str = ""
    type_v: str = ""
    exact: bool = True
    flash_attention: bool = True
    mmap: bool = True
    on_cpus: bool = False
    """Whether it computes only on CPUs, whatever else there is."""
    model: str = ""
    """The model's own name; empty: the same."""
    replica: int = 1
    listed_as: str = ""
    """The model's name on machines that have its file; empty where the file was read here."""

    @property
    def serves(self) -> str:
        """The model that clients ask for."""
        return self.model or self.name


def process_of(model: str, devices: Sequence[str] = (CPU,)) -> str:
    """Return the name of a model's RPC workers and their log; it contains the devices that they lend."""
    lent = "" if tuple(devices) == (CPU,) else "." + word("-".join(devices), LENT_MAX)
    return f"rpc.pool.{word(model)}{lent}"


def stage_of(model: WantedModel, first: int, end: int, head: bool, device: str) -> str:
    """Return the name of a stage; it contains its layers and a digest of its other options, so other options mean
    another stage."""
    wanted = (model.file.hash if model.file else "", model.ctx, model.sessions, model.type_k, model.type_v)
    how: tuple[object, ...] = (*wanted, model.exact, model.flash_attention, model.mmap, device)
    if model.shape and (model.shape.mixture.limit or model.shape.mixture.stream != "auto"):
        how = (*how, model.shape.mixture.stream, model.shape.mixture.limit)
    digest = hashlib.sha256(repr(how).encode()).hexdigest()[:DIGEST]
    return f"stage.pool.{word(model.name)}.{first}-{end}{'.head' if head else ''}.{digest}"


def belongs(process: str, model: str) -> bool:
    """Whether a process of ours is one of this model's."""
    return process.split(".", 2)[2:] != [] and process.split(".")[2] == word(model)


def word(text: str, most: int = WORD_MAX) -> str:
    """Return a text as a valid part of a process's name."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text.replace("#", "-replica-")).strip("-") or "model"
    if len(plain) <= most:
        return plain
    return f"{plain[: most - DIGEST - 1]}-{hashlib.sha256(text.encode()).hexdigest()[:DIGEST]}"


def wishes(
    models: Sequence[WantedModel],
    engine: str,
    decided: Mapping[str, PlacementDecided],
    nodes: Mapping[NodeId, NodeFacts],
) -> Iterator[ProcessWanted]:
    """Yield the requests for all processes that the decisions need."""
    for model in models:
        decision = decided.get(model.name)
        pieces = [piece for piece in decision.slices if _is_asked_for(piece, nodes)] if decision else []
        crowds = _crowds(pieces, nodes)
        by_process: dict[tuple[NodeId, str], list[Slice]] = {}
        for piece in pieces:
            by_process.setdefault((piece.node, piece.process), []).append(piece)
        for mine in by_process.values():
            yield _stage_wish(model, mine[0], nodes, crowds) if engine == "ring" else _rpc_wish(nodes, mine)


def _is_asked_for(piece: Slice, nodes: Mapping[NodeId, NodeFacts]) -> bool:
    """Whether an agent must run the process of a slice; that of an agentless host is there, or is not."""
    facts = nodes.get(piece.node)
    return bool(piece.process) and not (facts is not None and facts.guest)


def standby_wishes(
    models: Sequence[WantedModel], decided: Mapping[str, PlacementDecided], nodes: Mapping[NodeId, NodeFacts]
) -> Iterator[tuple[WantedModel, ProcessWanted]]:
    """Yield the requests for spares, with as many threads as they will have in place of their originals."""
    for model in models:
        decision = decided.get(model.name)
        for spare in decision.spares if decision else []:
            others = [piece for piece in decision.slices if piece.process != spare.process] if decision else []
            yield model, _stage_wish(model, spare, nodes, _crowds([spare, *others], nodes))


def _rpc_wish(nodes: Mapping[NodeId, NodeFacts], pieces: Sequence[Slice]) -> ProcessWanted:
    node = pieces[0].node
    named = [piece.device for piece in pieces]
    return ProcessWanted(
        node=node,
        process=pieces[0].process,
        kind=ProcessKind.RPC,
        devices=named if _known(nodes.get(node)).issuperset(named) else [],
    )


def _known(facts: NodeFacts | None) -> set[str]:
    """Return the device names that a machine's engine knows; devices only in the settings mean nothing to it."""
    return {CPU, *(device_name(gpu) for gpu in facts.gpus)} if facts else {CPU}


def _crowds(pieces: Sequence[Slice], nodes: Mapping[NodeId, NodeFacts]) -> Counter[str]:
    """Return how many of these slices each computer has."""
    return Counter(nodes[piece.node].machine for piece in pieces if piece.node in nodes)


def _threads(facts: NodeFacts | None, crowds: Mapping[str, int]) -> int:
    """Return the threads of a stage: stages of machines simulated on one computer share its cores; 0: all cores."""
    beside = crowds[facts.machine] if facts else 1
    return max(1, facts.cpu.cores // beside) if facts and beside > 1 else 0


def _stream(model: WantedModel, piece: Slice) -> str:
    usual = model.shape.mixture.stream if model.shape else "auto"
    return "on" if piece.disk_bytes else usual


def _stage_wish(
    model: WantedModel, piece: Slice, nodes: Mapping[NodeId, NodeFacts], crowds: Mapping[str, int]
) -> ProcessWanted:
    file, facts = model.file, nodes.get(piece.node)
    stage = StageWanted(
        model=model.serves,
        file=file.name if file else model.serves,
        hash=file.hash if file else "",
        first=piece.first,
        end=piece.end,
        head=piece.head,
        ctx_size=model.ctx,
        parallel=model.sessions,
        type_k=model.type_k,
        type_v=model.type_v,
        exact=model.exact,
        device=piece.device if piece.device in _known(facts) else "",
        flash_attention=model.flash_attention,
        mmap=model.mmap,
        moe_stream=_stream(model, piece),
        moe_memory=piece.moe_memory,
    )
    return ProcessWanted(
        node=piece.node,
        process=piece.process,
        kind=ProcessKind.STAGE,
        threads=_threads(facts, crowds),
        stage=stage,
    )
