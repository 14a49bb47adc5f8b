"""What is read of experts is told in one line for each model."""

from msgspec.structs import replace

from tests.cli.doctor.test_live import lease
from twd.cli.common.expert_lines import expert_lines
from twd.wire.base import ModelId
from twd.wire.leases.base import StreamedExperts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import StageFacts

BIG = ModelId("big")
EXPERTS = StreamedExperts(
    memory_bytes=2**30, expert_bytes=4 * 2**30, asked=200, hits=150, read_bytes=3 * 2**30, waited_s=1.5
)


def test_hits_and_reads_are_told() -> None:
    (line,) = expert_lines([lease("speculator", facts=SpeculatorFacts(model=BIG, experts=EXPERTS)), lease("edge")])
    assert line == "big on box: 25% of 4.00 GiB in memory, 75% hits, 3.00 GiB read in 1.5 s of waiting"


def test_a_model_that_was_not_asked_yet_has_no_share() -> None:
    (line,) = expert_lines(
        [lease("speculator", facts=SpeculatorFacts(model=BIG, experts=replace(EXPERTS, asked=0, hits=0)))]
    )
    assert "not asked yet" in line


def test_a_stage_tells_which_layers_they_are_of() -> None:
    (line,) = expert_lines([lease("stage", facts=StageFacts(model=BIG, experts=EXPERTS, layers="layers 0-15 of 30"))])
    assert line.startswith("big, layers 0-15 of 30, on box: 25%")


def test_what_drafters_told_is_weighed() -> None:
    told = replace(EXPERTS, told=400, told_right=372)
    (line,) = expert_lines([lease("speculator", facts=SpeculatorFacts(model=BIG, experts=told))])
    assert line.endswith("of waiting, 93% right of what drafters told")
