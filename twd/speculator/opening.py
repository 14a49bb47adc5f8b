"""Makes the core for a model that was just loaded."""

from twd.decoding.cost import CostCurve
from twd.decoding.pipeline import PipelinedTarget
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.limits import SpeculatorIdentity, fingerprint_of
from twd.speculator.targets.loaded import LoadedModel
from twd.wire.base import InstanceId, ModelId, NodeId


def core_for(
    loaded: LoadedModel, model: ModelId, speculator: InstanceId, node: NodeId
) -> tuple[SpeculatorCore, CostCurve]:
    """Returns the core of a speculator that serves this model under the name `model`, and the cost of passes that
    several sessions share, which is to be learned from them; a pipeline does without it."""
    identity = SpeculatorIdentity(
        model=model,
        speculator=speculator,
        node=node,
        vocab=loaded.facts.vocab,
        fingerprint=fingerprint_of(loaded.facts, loaded.exactness.settings),
    )
    pipe = loaded.target.pipe if isinstance(loaded.target, PipelinedTarget) else None
    cost = loaded.cost.ms if pipe is None else pipe.trip_ms
    shared = CostCurve(loaded.cost.points())
    return SpeculatorCore(identity, loaded.limits, cost, loaded.render, pipe, shared.ms), shared
