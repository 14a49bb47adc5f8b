"""Who would share processors if all ran as a placement says, in words."""

from collections.abc import Iterator, Mapping, Sequence

from twd.cli.common.core_lines import in_words
from twd.process.core_plan import Engine, EngineRole, plan_cores
from twd.settings.model import DrafterConfig
from twd.wire.base import NodeId
from twd.wire.node import CPU, NodeFacts
from twd.wire.placement import PlacementDecided, Slice


def planned_lines(
    decision: PlacementDecided, nodes: Mapping[NodeId, NodeFacts], drafters: Sequence[DrafterConfig]
) -> list[str]:
    """One line for each process that shares its cores, as `twd status` will tell it."""
    engines = [*_pieces(decision, nodes), *_drafters(decision, nodes, drafters)]
    shares = plan_cores(engines)
    return [f"{one.name}: {in_words(shares[one.name])}" for one in engines if shares[one.name].beside]


def _pieces(decision: PlacementDecided, nodes: Mapping[NodeId, NodeFacts]) -> Iterator[Engine]:
    for piece in decision.slices:
        if piece.device == CPU and piece.node in nodes:
            part = _part(decision, piece)
            layers = f"layers {piece.first}-{piece.end - 1}" if piece.end > piece.first else "the output head"
            yield _engine(f"{part} of {layers} on {piece.node}", part, decision.model, nodes, piece.node)


def _part(decision: PlacementDecided, piece: Slice) -> EngineRole:
    """A model that lies on one machine alone is loaded by its speculator."""
    if not piece.process and len({other.node for other in decision.slices}) == 1:
        return EngineRole.TARGET
    if decision.engine == "ring":
        return EngineRole.STAGE
    return EngineRole.WORKER if piece.process else EngineRole.RPC_TARGET


def _drafters(
    decision: PlacementDecided, nodes: Mapping[NodeId, NodeFacts], drafters: Sequence[DrafterConfig]
) -> Iterator[Engine]:
    """Those of the settings that compute here; one without a machine runs where the model is served."""
    for number, drafter in enumerate(drafters):
        node = NodeId(drafter.node) if drafter.node else decision.home
        if drafter.url or node not in nodes or drafter.for_model not in ("", decision.model):
            continue
        name = f"drafter {drafter.name or number} on {node}"
        asked = 0 if drafter.threads == "auto" else drafter.threads
        yield _engine(name, EngineRole.DRAFTER, drafter.name, nodes, node, asked)


def _engine(
    name: str, part: EngineRole, model: str, nodes: Mapping[NodeId, NodeFacts], node: NodeId, asked: int = 0
) -> Engine:
    """Machines that are one computer have the same cores."""
    computers = sorted({facts.machine for facts in nodes.values()})
    cores = nodes[node].cpu.cores
    first = computers.index(nodes[node].machine) * max(facts.cpu.cores for facts in nodes.values())
    return Engine(name=name, part=part, model=model, cores=tuple(range(first, first + cores)), room=cores, asked=asked)
