"""Coordinators that cannot read a model's file: who decides then, and what is told."""

from dataclasses import replace

import msgspec
import pytest

from tests.coordinator.machines import SHAPE, machine, seeing, wanting
from twd.coordinator.core.plan import plan
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.readers import able, better, unable
from twd.coordinator.core.state import DecidePlacement
from twd.wire.base import InstanceId, NodeId
from twd.wire.leases.others import CoordinatorFacts
from twd.wire.node import ModelFile, NodeFacts
from twd.wire.service import ServiceLease


def models(reads: str, lacks: str = "") -> list[WantedModel]:
    return [WantedModel(name, 512, 1, SHAPE) for name in reads] + [WantedModel(name, 512, 1) for name in lacks]


def lease(reads: list[str], node: str = "attic") -> ServiceLease:
    return ServiceLease(
        service="coordinator", instance=InstanceId(f"coordinator.{node}.x"), node=NodeId(node), pid=1, version="",
        started_ms=0, renewed_ms=0, facts=CoordinatorFacts(reads=reads),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reads", "lacks", "theirs", "yields"),
    [
        ("a", "b", ["a", "b"], True),
        ("", "b", ["b"], True),
        ("a", "b", ["b"], False),
        ("a", "b", ["a"], False),
        ("a", "b", ["a", "c"], False),
        ("a", "", ["a", "b"], False),
        ("a", "b", [], False),
    ],
)
def test_who_plans_all_that_is_planned_here_and_more_is_better(
    reads: str, lacks: str, theirs: list[str], yields: bool
) -> None:
    assert (better(models(reads, lacks), [lease([]), lease(theirs)]) == "attic") is yields


def test_replicas_of_a_model_are_one() -> None:
    twice = [WantedModel(f"a#{n}", 512, 1, SHAPE, model="a", replica=n) for n in (1, 2)]
    assert (able(twice), unable(twice), unable(models("", "bb"))) == (["a"], [], ["b"])


def with_files(name: str, *files: ModelFile) -> NodeFacts:
    return msgspec.structs.replace(machine(name), models=list(files))


def told_of(*nodes: NodeFacts) -> DecidePlacement:
    model = WantedModel("big", 4096, 1, problem="/m/tiny.gguf: no such file", listed_as="tiny")
    action = plan(replace(wanting(), models=(model,)), seeing(*nodes), 0.0)
    assert isinstance(action, DecidePlacement)
    return action


def test_what_cannot_be_read_is_told_with_who_has_a_file_of_that_name() -> None:
    tiny = ModelFile(name="tiny", path="/m/tiny.gguf", size_bytes=1, hash="x")
    broken, other = msgspec.structs.replace(tiny, problem="cut short"), msgspec.structs.replace(tiny, name="other")
    alone = told_of(with_files("desk", broken), with_files("attic", broken, other))
    assert alone.decision.notes == ["the coordinator on desk cannot plan it: /m/tiny.gguf: no such file"]
    found = told_of(machine("desk"), with_files("attic", broken, tiny))
    assert found.decision.missing_bytes
    assert found.decision.notes[0].endswith(
        "A file of this name is on attic: copy it from there, or run `twd run coordinator` there, too"
    )
    assert found.basis != alone.basis, "who finds the file is told at once"
    assert found.decision.home != NodeId("attic")
