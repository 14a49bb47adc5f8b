"""Which coordinators can plan which models: one that cannot read a file leaves the decisions to one that can."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from twd.coordinator.core.processes import WantedModel
from twd.wire.base import NodeId
from twd.wire.leases.others import CoordinatorFacts
from twd.wire.node import NodeFacts
from twd.wire.service import ServiceLease, told_by

NAMED_MAX: Final = 3


def able(models: Iterable[WantedModel]) -> list[str]:
    """Return the models that can be planned here."""
    return sorted({model.serves for model in models if model.shape is not None})


def unable(models: Iterable[WantedModel]) -> list[str]:
    """Return the models that cannot be planned here: their files cannot be read, or are not usable."""
    return sorted({model.serves for model in models if model.shape is None})


def better(models: Collection[WantedModel], others: Iterable[ServiceLease]) -> NodeId | None:
    """Return the machine of a coordinator that can plan all models of this one and more; None if there is none."""
    mine, lacking = set(able(models)), set(unable(models))
    for lease, told in told_by(others, CoordinatorFacts):
        theirs = set(told.reads)
        if mine <= theirs and lacking & theirs:
            return lease.node
    return None


def holders(model: WantedModel, nodes: Mapping[NodeId, NodeFacts]) -> list[NodeId]:
    """Return the machines with a complete file that has the name of a model that cannot be planned here."""
    return sorted(
        node
        for node, facts in nodes.items()
        if model.listed_as and any(known.name == model.listed_as and not known.problem for known in facts.models)
    )


def why_unplanned(model: WantedModel, here: NodeId, nodes: Mapping[NodeId, NodeFacts]) -> str:
    """Return which coordinator cannot plan a model and why, and what to do where others have its file."""
    if not model.listed_as:
        return model.problem
    told = f"the coordinator on {here} cannot plan it: {model.problem}"
    there = [node for node in holders(model, nodes) if node != here]
    if not there:
        return told
    named = ", ".join(there[:NAMED_MAX])
    return f"{told}. A file of this name is on {named}: copy it from there, or run `twd run coordinator` there, too"
