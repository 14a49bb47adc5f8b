"""Who shares cores is told in words, with what it costs."""

import pytest
from msgspec.structs import replace

from tests.cli.doctor.test_live import lease
from twd.cli.common.core_lines import check_cores, share_of, shared_lines
from twd.cli.doctor.findings import Severity
from twd.wire.base import ModelId
from twd.wire.leases.base import CoreFacts
from twd.wire.leases.workers import DrafterLeaseFacts, StageFacts

SHARED = DrafterLeaseFacts(
    model=ModelId("quick"),
    core_share=CoreFacts(threads=1, beside=["stage big", "stage big"], yields=True),
    token_ms=7.0,
    alone_ms=6.5,
)


def test_a_drafter_beside_stages_is_told_with_its_pace() -> None:
    (line,) = shared_lines([lease("drafter", facts=SHARED)])
    assert line == (
        "drafter quick on box: 1 thread, on the cores of 2 x stage big, to whom it gives way; "
        "a guess takes 7.0 ms, 6.5 where nobody else computes"
    )


def test_who_is_alone_is_left_out() -> None:
    assert shared_lines([lease("drafter", facts=replace(SHARED, core_share=CoreFacts(threads=1))), lease("edge")]) == []


@pytest.mark.parametrize(("now_ms", "verdict"), [(7.0, Severity.PASS), (14.0, Severity.WARN)])
def test_the_doctor_names_what_helps_one_that_is_held_up(now_ms: float, verdict: Severity) -> None:
    (found,) = check_cores([lease("drafter", facts=replace(SHARED, token_ms=now_ms))])
    assert found.verdict is verdict
    assert bool(found.mend) is (verdict is Severity.WARN)


def test_texts_give_way_to_nobody_and_need_no_check() -> None:
    stage = StageFacts(model=ModelId("big"), core_share=CoreFacts(threads=1, beside=["drafter quick"]))
    assert not check_cores([lease("stage", facts=stage)])
    (line,) = shared_lines([lease("stage", facts=stage)])
    assert line == "stage big on box: 1 thread, on the cores of drafter quick"


def test_fewer_threads_are_told_with_their_reason() -> None:
    stage = StageFacts(model=ModelId("big"), core_share=CoreFacts(threads=8, in_use=6))
    (line,) = shared_lines([lease("stage", facts=stage)])
    assert line == "stage big on box: 8 threads (6 in use: other programs take cores)"


def test_other_services_share_no_cores() -> None:
    assert share_of(lease("drafter", facts=DrafterLeaseFacts())) is None
    assert share_of(lease("edge")) is None
