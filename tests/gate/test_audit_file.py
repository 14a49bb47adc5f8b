"""What the audits have found survives a restart of the gate."""

from pathlib import Path

import pytest

from twd.gate.calibration import profile
from twd.gate.calibration.audit_file import path_of
from twd.gate.calibration.profile import Conditions, Profile
from twd.gate.trust import AuditTask, Trust
from twd.wire.base import InstanceId, JobId, ModelId
from twd.wire.job import JobSubmitted, Prompt

JOB = JobSubmitted(job=JobId("job-1"), model=ModelId("big"), owner=InstanceId("gate.here.x"), prompt=Prompt(text="Hi"))


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    write_profile(tmp_path, tolerance=1.0)
    return tmp_path


def write_profile(home: Path, tolerance: float) -> None:
    conditions = Conditions(judge="big", member="a", judge_is="x", member_is="y", sampling="z", hold="answer")
    made = Profile(
        conditions=conditions,
        statistic="token",
        tolerance=tolerance,
        max_error=0.05,
        confidence=0.95,
        passes=100,
        errors=1,
        bound=0.049,
        prompts="p",
    )
    profile.write(home, made)


def trust(home: Path) -> Trust:
    found = Trust(home, "answer", 0.05)
    found.reload(["big"], ["a"])
    return found


def audit(gate: Trust, wrong: bool) -> None:
    gate.passed(JOB, "big", "a", "Hello", 0.0)
    gate.audited(AuditTask(JOB, "big", "a", "Hello", "check"), wrong)


def test_counts_and_bounds_are_read_again(calibrated: Path) -> None:
    first = trust(calibrated)
    for wrong in (False, True, False, False):
        audit(first, wrong)
    again = trust(calibrated)
    assert again.told == first.told
    assert (again.told[0].errors, again.told[0].audits) == (1, 4)
    assert again.standing["big", "a"].passed == 4
    audit(first, True)
    audit(again, True)
    assert again.told == first.told


def test_errors_before_a_restart_count_for_closing(calibrated: Path) -> None:
    restarts = 0
    while not trust(calibrated).standing["big", "a"].profile.closed:
        audit(trust(calibrated), wrong=True)
        restarts += 1
    assert 1 < restarts < 20


def test_another_profile_begins_anew(calibrated: Path) -> None:
    audit(trust(calibrated), wrong=True)
    write_profile(calibrated, tolerance=2.0)
    assert trust(calibrated).told[0].audits == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"profile": 3}'])
def test_a_record_that_cannot_be_read_begins_anew(calibrated: Path, content: bytes) -> None:
    audit(trust(calibrated), wrong=True)
    path_of(profile.path_of(calibrated, "big", "a")).write_bytes(content)
    assert trust(calibrated).told[0].audits == 0
