"""What is remembered of jobs: all of a small one, both ends of a big one, and never too much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.metrics.core import HEAD_EVENTS, STORY_BYTES_MAX, TAIL_EVENTS, JobMemory
from twd.wire.base import Event, InstanceId, JobId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.job import FinishReason, JobFailed, JobFinished, JobStarted, JobStats
from twd.wire.model import ModelUnloaded


def started(job: str, session: str = "s") -> JobStarted:
    return JobStarted(job=JobId(job), attempt=1, session=SessionId(session), model="m", prompt_tokens=1)  # type: ignore[arg-type]


def finished(job: str) -> JobFinished:
    return JobFinished(job=JobId(job), attempt=1, reason=FinishReason.STOP, stats=JobStats())


def proposed(session: str) -> DraftProposed:
    return DraftProposed(session=SessionId(session), drafter=InstanceId("d"), at=0, prefix=0)


def hear(memory: JobMemory, event: Event, text: str) -> None:
    memory.hear(event, text.encode())


def test_a_story_is_told_in_order() -> None:
    memory = JobMemory(10)
    hear(memory, started("j"), "started")
    hear(memory, proposed("s"), "proposed")
    hear(memory, finished("j"), "finished")
    assert memory.story(JobId("j")).events == [b"started", b"proposed", b"finished"]
    assert memory.history(10) == [b"finished"]


def test_events_of_no_job_and_of_unknown_sessions_are_left_out() -> None:
    memory = JobMemory(10)
    hear(memory, ModelUnloaded(model="m", node="n"), "unloaded")  # type: ignore[arg-type]
    hear(memory, proposed("unknown"), "proposed")
    assert memory.sizes == {"stories": 0, "bytes": 0, "ended": 0}


def test_of_a_long_story_both_ends_stay() -> None:
    memory = JobMemory(10)
    total = HEAD_EVENTS + TAIL_EVENTS + 100
    for number in range(total):
        hear(memory, started("j"), f"{number}")
    story = memory.story(JobId("j"))
    assert story.forgotten == 100
    assert story.events[0] == b"0"
    assert story.events[HEAD_EVENTS - 1 : HEAD_EVENTS + 1] == [b"%d" % (HEAD_EVENTS - 1), b"%d" % (HEAD_EVENTS + 100)]
    assert story.events[-1] == b"%d" % (total - 1)


@pytest.mark.parametrize("size", [STORY_BYTES_MAX // 100, STORY_BYTES_MAX // 3, STORY_BYTES_MAX + 2])
def test_a_story_of_long_events_still_fits_into_one_message(size: int) -> None:
    memory = JobMemory(10)
    for number in range(300):
        memory.hear(started("j"), number.to_bytes(2, "big") * (size // 2))
    story = memory.story(JobId("j"))
    assert sum(len(data) for data in story.events) == story.size == memory.sizes["bytes"] <= STORY_BYTES_MAX
    assert len(story.events) + story.forgotten == 300
    assert story.events == sorted(story.events)


def test_history_is_newest_first_and_counts_a_job_once() -> None:
    memory = JobMemory(2)
    for job in ("a", "b", "c"):
        hear(memory, finished(job), job)
    assert memory.history(10) == [b"c", b"b"]
    assert memory.history(1) == [b"c"]
    failure = JobFailed(job=JobId("b"), attempt=2, failure={})  # type: ignore[arg-type]
    hear(memory, failure, "b again")
    assert memory.history(10) == [b"b again", b"c"]


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 400), st.booleans()), max_size=300),
    st.integers(0, 5),
)
def test_the_bounds_hold_whatever_comes(events: list[tuple[str, int, bool]], jobs_max: int) -> None:
    memory = JobMemory(jobs_max, bytes_max=1000)
    for job, size, ends in events:
        memory.hear(finished(job) if ends else started(job, f"s-{job}"), b"x" * size)
        sizes = memory.sizes
        assert sizes["stories"] <= max(1, jobs_max)
        assert sizes["ended"] <= jobs_max
        assert sizes["bytes"] <= 1000 or sizes["stories"] == 1
        assert sizes["bytes"] == sum(memory.story(JobId(name)).size for name in "abcdefgh")
