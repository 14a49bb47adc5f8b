"""Makes the core for a model that was just loaded."""

from twd.decoding.pipeline import PipelinedTarget
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.limits import SpeculatorIdentity, fingerprint_of
from twd.speculator.targets.loaded import LoadedModel
from twd.wire.base import InstanceId, ModelId, NodeId


def core_for(loaded: LoadedModel, model: ModelId, speculator: InstanceId, node: NodeId) -> SpeculatorCore:
    """Returns the core of a speculator that serves this model under the name `model`."""
    identity = SpeculatorIdentity(
        model=model,
        speculator=speculator,
        node=node,
        vocab=loaded.facts.vocab,
        fingerprint=fingerprint_of(loaded.facts, loaded.exactness.settings),
    )
    pipe = loaded.target.pipe if isinstance(loaded.target, PipelinedTarget) else None
    cost = loaded.cost.ms if pipe is None else pipe.trip_ms
    return SpeculatorCore(identity, loaded.limits, cost, loaded.render, pipe)
