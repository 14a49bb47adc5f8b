"""An attempt is taken once, and can be let go while it is prepared."""

from tests.speculator.fakes import job
from twd.speculator.intake import REMEMBERED_MAX, Intake
from twd.wire.base import JobId


def test_an_attempt_is_new_once() -> None:
    intake = Intake()
    first, second = job("j"), job("j", attempt=2)
    assert intake.is_new(first)
    intake.take(first)
    assert not intake.is_new(first)
    assert intake.is_new(second)
    intake.take(second)
    assert not intake.is_new(first), "an earlier attempt that comes late"
    assert intake.prepared(second)
    assert not intake.is_new(second)


def test_only_the_last_attempt_is_wanted() -> None:
    intake = Intake()
    first, second = job("j"), job("j", attempt=2)
    assert intake.take(first) is None
    assert intake.take(second) is first
    assert not intake.prepared(first)
    assert intake.prepared(second)
    assert len(intake) == 0


def test_a_cancel_finds_what_is_being_prepared() -> None:
    intake = Intake()
    second = job("j", attempt=2)
    intake.take(second)
    assert intake.cancel(JobId("other")) is None
    assert intake.cancel(JobId("j"), 1) is None
    assert intake.cancel(JobId("j"), 2) is second
    assert not intake.prepared(second)
    assert intake.cancel(JobId("j")) is None


def test_memory_is_bounded() -> None:
    intake = Intake()
    for number in range(REMEMBERED_MAX + 10):
        one = job(f"j{number}")
        intake.take(one)
        intake.prepared(one)
    assert len(intake._latest) == REMEMBERED_MAX
    assert intake.is_new(job("j0"))
    assert not intake.is_new(one)
