"""What models that run now take on their machine's processor, for plans: it counts more than what loading showed."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from twd.bus.base import LeaseEntry
from twd.coordinator.core.pass_time import main_kind
from twd.coordinator.core.placement.values import ModelShape
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import MeasuredStep, NodeFacts, WeightShare
from twd.wire.service import read_lease, told_by


def with_live_steps(
    nodes: Iterable[NodeFacts], entries: Iterable[LeaseEntry], model: str, shape: ModelShape | None
) -> list[NodeFacts]:
    """The machines, with what a token of this model takes now on the one that serves it alone and without a card."""
    leases = (read_lease(entry.value, entry.key) for entry in entries)
    told = told_by(leases, SpeculatorFacts)
    serving = {lease.node: facts for lease, facts in told if facts.model == model and not facts.engine}
    return [_with(facts, serving[facts.node], shape) if facts.node in serving and shape else facts for facts in nodes]


def _with(facts: NodeFacts, serving: SpeculatorFacts, shape: ModelShape) -> NodeFacts:
    ms = serving.single_step_ms
    if not ms or facts.gpus:
        return facts
    step = MeasuredStep(
        layers=len(shape.layer_bytes),
        weight_bytes=sum(shape.layer_bytes),
        kinds=[WeightShare(kind=kind, share=share) for kind, share in shape.reads],
        head_bytes=shape.head_bytes,
        head_kind=shape.head_kind,
        ms=ms,
        window=round(serving.step_cost_ms(8) / ms, 3),
    )
    others = [one for one in facts.cpu.measured if _kind(one.kinds) != _kind(step.kinds)]
    return replace(facts, cpu=replace(facts.cpu, measured=[*others, step]))


def _kind(kinds: Sequence[WeightShare]) -> str:
    return main_kind(tuple((one.kind, one.share) for one in kinds))
