"""Prompts with one beginning that come together: it is read once, and every text stays the target's own."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.speculator.fakes import Driver, FakePipeline, FakeTarget, job, make_core, text_of
from twd.decoding.window import Report, Sampler
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, JobId, NodeId
from twd.wire.draft import SessionOpened
from twd.wire.failures import TwdError
from twd.wire.job import JobFailed, JobFinished, JobStarted
from twd.wire.prefix import common_prefix

LEAST = 8
SHARED = [2 + index * 7 % 40 for index in range(40)]


def open_copying(
    self: FakeTarget, tokens: Sequence[int], sampler: Sampler, report: Report | None = None
) -> tuple[int, int]:
    """Open a slot with the longest beginning that another session has read; of a pipeline, what is in flight is not."""
    slot, _ = FakeTarget.open(self, tokens, sampler, report)
    running = [fed for other, fed in self.fed.items() if other != slot and other in self.samplers]
    common = max((common_prefix(fed, tokens[:-1]) for fed in running), default=0)
    if common < LEAST:
        return slot, 0
    self.fed[slot] = list(tokens[:common])
    return slot, common


@dataclass
class SharingTarget(FakeTarget):
    n_slots: int = 6
    open = open_copying


@dataclass
class SharingPipeline(FakePipeline):
    n_slots: int = 6
    open = open_copying


def sharing(target: FakeTarget, max_queue: int = 64) -> Driver:
    return Driver(make_core(target, least_shared=lambda held: LEAST, max_queue=max_queue), target)


def cached(driver: Driver) -> list[int]:
    return [event.cached_tokens for event in driver.told if isinstance(event, JobStarted)]


def submit_all(driver: Driver, prompts: Sequence[Sequence[int]]) -> None:
    for number, prompt in enumerate(prompts):
        driver.submit(job(f"j{number}"), prompt)


def all_right(driver: Driver, prompts: Sequence[Sequence[int]]) -> bool:
    return all(driver.tokens(f"j{number}") == text_of(prompt, 40) for number, prompt in enumerate(prompts))


BURST = [[*SHARED, 40 + number, 3, 5, 4] for number in range(6)]


@pytest.mark.parametrize("target", [SharingTarget(), SharingPipeline()], ids=["passes", "pipeline"])
def test_a_beginning_that_all_prompts_have_is_read_once(target: FakeTarget) -> None:
    driver = sharing(target)
    submit_all(driver, BURST)
    driver.run()
    assert cached(driver) == [0, *[len(SHARED)] * 5]
    assert all_right(driver, BURST)


def test_a_target_that_copies_nothing_reads_them_all_at_once() -> None:
    target = SharingTarget()
    driver = Driver(make_core(target), target)
    submit_all(driver, BURST)
    driver.turn()
    assert cached(driver) == [0] * 6
    driver.run()
    assert all_right(driver, BURST)


def test_too_little_in_common_is_not_waited_for() -> None:
    prompts = [[*SHARED[: LEAST - 1], 40 + number, *range(2, 30)] for number in range(4)]
    driver = sharing(SharingTarget())
    submit_all(driver, prompts)
    driver.turn()
    assert len(cached(driver)) == 4
    driver.run()
    assert all_right(driver, prompts)


def test_each_waits_for_the_one_that_it_has_most_in_common_with() -> None:
    prompts = [[*SHARED, 41], [*SHARED, *SHARED[::-1], 42], [*SHARED, *SHARED[::-1], 43]]
    driver = sharing(SharingTarget())
    submit_all(driver, prompts)
    driver.run()
    assert cached(driver) == [0, len(SHARED), 2 * len(SHARED)]
    assert all_right(driver, prompts)


def test_the_next_one_reads_on_where_the_first_is_cancelled() -> None:
    driver = sharing(SharingTarget())
    submit_all(driver, BURST)
    driver.turn()
    assert len(driver.core.queue) == 5
    driver.core.cancel(JobId("j0"), driver.now)
    driver.run()
    assert cached(driver) == [0, 16, *[len(SHARED)] * 4], "one pass had 16 rows"
    assert all(driver.tokens(f"j{number}") == text_of(BURST[number], 40) for number in range(1, 6))


def test_those_that_wait_for_a_beginning_do_not_fill_the_queue() -> None:
    driver = sharing(SharingTarget(n_slots=5), max_queue=2)
    for number, prompt in enumerate(BURST[:5]):
        driver.submit(job(f"j{number}"), prompt)
        driver.core.admit(driver.now) if number else driver.turn()
    assert len(driver.core.queue) == 4
    driver.submit(job("j5"), BURST[5])
    driver.core.admit(driver.now)
    driver.submit(job("j6"), BURST[0])
    driver.core.admit(driver.now)
    with pytest.raises(TwdError, match="2 jobs are waiting"):
        driver.core.check(job("j7"))
    driver.run()
    assert all_right(driver, [*BURST, BURST[0]])


def test_others_do_not_take_the_slots_of_those_that_wait() -> None:
    driver = sharing(SharingTarget(n_slots=3))
    submit_all(driver, [*BURST[:3], [9, 8, 7], [7, 8, 9]])
    driver.turn()
    assert [session.job.job for session in driver.core.sessions.values()] == ["j0"]
    driver.run()
    started = [event.job for event in driver.told if isinstance(event, JobStarted)]
    assert started[:3] == ["j0", "j1", "j2"]


@examples(150)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 4), jobs=st.integers(1, 9), pipeline=st.booleans())
def test_whatever_prompts_share_every_text_is_right(seed: int, slots: int, jobs: int, pipeline: bool) -> None:
    rng = random.Random(seed)
    target = (SharingPipeline if pipeline else SharingTarget)(n_slots=slots)
    driver = sharing(target)
    family = [[2 + rng.randrange(40) for _ in range(rng.randint(1, 50))] for _ in range(2)]
    prompts = [[*rng.choice(family)[: rng.randint(0, 60)], 2 + rng.randrange(40)] for _ in range(jobs)]
    cancelled = {number for number in range(jobs) if rng.random() < 0.2}
    for number, prompt in enumerate(prompts):
        driver.submit(job(f"j{number}"), prompt)
        for _ in range(rng.choice((0, 0, 1, 3))):
            driver.turn()
    for number in cancelled:
        driver.core.cancel(JobId(f"j{number}"), driver.now)
    for slot in driver.core.released():
        target.close(slot)
    driver.read()
    driver.run()
    finished = {event.job for event in driver.told if isinstance(event, JobFinished)}
    failed = {event.job for event in driver.told if isinstance(event, JobFailed)}
    assert finished | failed == {f"j{number}" for number in range(jobs)}
    assert failed <= {f"j{number}" for number in cancelled}
    for number in set(range(jobs)) - cancelled:
        assert driver.tokens(f"j{number}") == text_of(prompts[number], 40)
    begun = [event.job for event in driver.told if isinstance(event, JobStarted)]
    assert len(begun) == len(set(begun))
    if slots == 1:
        assert all(int(one[1:]) < int(other[1:]) for one, other in pairwise(begun))


def test_a_drafter_on_the_same_cores_rests_for_the_first_of_many_too() -> None:
    """The others share its passes as soon as they have copied what it reads now."""
    driver = sharing(SharingTarget())
    driver.core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=True), 0.0)
    submit_all(driver, BURST)
    driver.turn()
    assert [event.credit for event in driver.told if isinstance(event, SessionOpened)] == [0]
    driver.run()
    assert all_right(driver, BURST)


def test_it_drafts_for_one_session_whoever_waits_for_the_only_slot() -> None:
    driver = sharing(SharingTarget(n_slots=1))
    driver.core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=True), 0.0)
    submit_all(driver, BURST)
    driver.turn()
    (opened,) = [event for event in driver.told if isinstance(event, SessionOpened)]
    assert opened.credit > 0
