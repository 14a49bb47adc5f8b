"""What is read of experts is told in one line for each model."""

from tests.cli.doctor.test_live import lease
from twd.cli.common.expert_lines import expert_lines

FACTS = {
    "model": "big",
    "moe_memory_bytes": 2**30,
    "moe_expert_bytes": 4 * 2**30,
    "moe_asked": 200,
    "moe_hits": 150,
    "moe_read_bytes": 3 * 2**30,
    "moe_waited_s": 1.5,
}


def test_hits_and_reads_are_told() -> None:
    (line,) = expert_lines([lease("speculator", facts=FACTS), lease("speculator", facts={"model": "dense"})])
    assert line == "big on box: 25% of 4.00 GiB in memory, 75% hits, 3.00 GiB read in 1.5 s of waiting"


def test_a_model_that_was_not_asked_yet_has_no_share() -> None:
    (line,) = expert_lines([lease("speculator", facts=FACTS | {"moe_asked": 0, "moe_hits": 0})])
    assert "not asked yet" in line


def test_a_stage_tells_which_layers_they_are_of() -> None:
    (line,) = expert_lines([lease("stage", facts=FACTS | {"layers": "0-15"})])
    assert line.startswith("big, layers 0-15, on box: 25%")
