"""Who shares cores is told in words, with what it costs."""

from typing import Any

import pytest

from tests.cli.doctor.test_live import lease
from twd.cli.common.core_lines import check_cores, share_of, shared_lines
from twd.cli.doctor.findings import Severity

SHARED: dict[str, Any] = {
    "model": "quick",
    "threads": 1,
    "cores_with": ["stage big", "stage big"],
    "yields": True,
    "token_ms": 7.0,
    "alone_ms": 6.5,
}


def test_a_drafter_beside_stages_is_told_with_its_pace() -> None:
    (line,) = shared_lines([lease("drafter", facts=SHARED)])
    assert line == (
        "drafter quick on box: 1 thread, on the cores of 2 x stage big, to whom it gives way; "
        "a guess takes 7.0 ms, 6.5 where nobody else computes"
    )


def test_who_is_alone_is_left_out() -> None:
    assert shared_lines([lease("drafter", facts=SHARED | {"cores_with": []}), lease("edge")]) == []


@pytest.mark.parametrize(("now_ms", "verdict"), [(7.0, Severity.PASS), (14.0, Severity.WARN)])
def test_the_doctor_names_what_helps_one_that_is_held_up(now_ms: float, verdict: Severity) -> None:
    (found,) = check_cores([lease("drafter", facts=SHARED | {"token_ms": now_ms})])
    assert found.verdict is verdict
    assert bool(found.mend) is (verdict is Severity.WARN)


def test_texts_give_way_to_nobody_and_need_no_check() -> None:
    stage = {"model": "big", "threads": 1, "cores_with": ["drafter quick"], "yields": False}
    assert not check_cores([lease("stage", facts=stage)])
    (line,) = shared_lines([lease("stage", facts=stage)])
    assert line == "stage big on box: 1 thread, on the cores of drafter quick"


@pytest.mark.parametrize("facts", [{}, {"threads": "two", "cores_with": []}, {"threads": 1, "cores_with": "all"}])
def test_nonsense_is_no_share(facts: dict[str, Any]) -> None:
    assert share_of(lease("drafter", facts=facts)) is None
