"""Facts as they stand in the registry, read into the struct of their service.

Two versions of twd may share a bus, and anybody may write a key. So each fact is read on its own if the whole cannot be
read: a fact that makes no sense is left out, with a reason, and its default holds. Fields are only added.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from twd.wire.leases.base import LeaseFacts, OtherFact, OtherFacts
from twd.wire.leases.gate import GateFacts
from twd.wire.leases.machine import AgentFacts, SupervisorFacts, SwarmFacts
from twd.wire.leases.others import CoordinatorFacts, EdgeFacts, MetricsFacts, RacerFacts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import DrafterLeaseFacts, RelayFacts, StageFacts
from twd.wire.reading import NONSENSE, read_as

FACTS_OF: Final[Mapping[str, type[LeaseFacts]]] = {
    "agent": AgentFacts,
    "coordinator": CoordinatorFacts,
    "drafter": DrafterLeaseFacts,
    "edge": EdgeFacts,
    "gate": GateFacts,
    "metrics": MetricsFacts,
    "racer": RacerFacts,
    "relay": RelayFacts,
    "speculator": SpeculatorFacts,
    "stage": StageFacts,
    "supervisor": SupervisorFacts,
    "swarm": SwarmFacts,
}
"""The struct of each service; other services tell no facts, or are not of twd."""
PROBLEM_MAX: Final = 200
NOT_READABLE: Final = "its facts cannot be read"


def read_facts(service: str, value: bytes) -> tuple[LeaseFacts, str]:
    """The facts of a service from their JSON, and in words what of them could not be read."""
    kind = FACTS_OF.get(service)
    if kind is None:
        return _other(value)
    facts = read_as(kind, value)
    return (facts, "") if facts is not None else _one_by_one(kind, value)


def shown_facts(facts: LeaseFacts) -> dict[str, Any]:
    """Facts as people and programs outside see them, by name; what is not known is left out."""
    told = facts.told if isinstance(facts, OtherFacts) else msgspec.to_builtins(facts)
    return {name: value for name, value in told.items() if value not in (None, "")}


def _other(value: bytes) -> tuple[LeaseFacts, str]:
    told = read_as(dict[str, msgspec.Raw], value)
    if told is None:
        return OtherFacts(), NOT_READABLE
    found, problem = _each(told, dict.fromkeys(told, OtherFact))
    return OtherFacts(ready=found.get("ready") is not False, told=found), problem


def _one_by_one(kind: type[LeaseFacts], value: bytes) -> tuple[LeaseFacts, str]:
    told = read_as(dict[str, msgspec.Raw], value)
    if told is None:
        return kind(), NOT_READABLE
    found, problem = _each(told, {field.name: field.type for field in msgspec.structs.fields(kind)})
    return kind(**found), problem


def _each(told: Mapping[str, msgspec.Raw], types: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Each fact that makes sense, and in words which ones do not."""
    found, problems = {}, []
    for name in told.keys() & types.keys():
        try:
            found[name] = msgspec.json.decode(told[name], type=types[name])
        except NONSENSE as error:
            problems.append(f"{name}: {error}"[:PROBLEM_MAX])
    return found, f"facts left out: {'; '.join(sorted(problems))}" if problems else ""
