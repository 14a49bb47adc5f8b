"""An attempt is taken once, and can be let go while it is prepared."""

from tests.speculator.fakes import job
from twd.speculator.admission.job_dedup import REMEMBERED_MAX, JobDedup
from twd.wire.base import JobId


def test_an_attempt_is_new_once() -> None:
    job_dedup = JobDedup()
    first, second = job("j"), job("j", attempt=2)
    assert job_dedup.is_new(first)
    job_dedup.take(first)
    assert not job_dedup.is_new(first)
    assert job_dedup.is_new(second)
    job_dedup.take(second)
    assert not job_dedup.is_new(first), "an earlier attempt that comes late"
    assert job_dedup.prepared(second)
    assert not job_dedup.is_new(second)


def test_only_the_last_attempt_is_wanted() -> None:
    job_dedup = JobDedup()
    first, second = job("j"), job("j", attempt=2)
    assert job_dedup.take(first) is None
    assert job_dedup.take(second) is first
    assert not job_dedup.prepared(first)
    assert job_dedup.prepared(second)
    assert len(job_dedup) == 0


def test_a_cancel_finds_what_is_being_prepared() -> None:
    job_dedup = JobDedup()
    second = job("j", attempt=2)
    job_dedup.take(second)
    assert job_dedup.cancel(JobId("other")) is None
    assert job_dedup.cancel(JobId("j"), 1) is None
    assert job_dedup.cancel(JobId("j"), 2) is second
    assert not job_dedup.prepared(second)
    assert job_dedup.cancel(JobId("j")) is None


def test_memory_is_bounded() -> None:
    job_dedup = JobDedup()
    for number in range(REMEMBERED_MAX + 10):
        one = job(f"j{number}")
        job_dedup.take(one)
        job_dedup.prepared(one)
    assert len(job_dedup._latest) == REMEMBERED_MAX
    assert job_dedup.is_new(job("j0"))
    assert not job_dedup.is_new(one)
