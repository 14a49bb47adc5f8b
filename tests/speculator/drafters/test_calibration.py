"""Who is tried out, and when: one after the other, and nobody whom real work has shown already."""

from tests.speculator.fakes import Driver, FakeTarget, job, make_core
from tests.speculator.test_watching import NAME, always_drafting, drafter
from twd.drafting.calibration import Calibration
from twd.speculator.drafters.calibration import JUDGING_S, TRIAL_AFTER_S, DrafterTrials
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.speculator.drafters.pool import ENOUGH_TO_TELL
from twd.wire.base import InstanceId, JobId, ModelId, NodeId
from twd.wire.draft import DrafterChecked
from twd.wire.job import CALIBRATION

A, B, C = InstanceId("a"), InstanceId("b"), InstanceId("c")


def test_each_is_tried_once_in_the_order_in_which_they_came() -> None:
    trials = DrafterTrials(ModelId("m"), InstanceId("s"))
    for one in (A, B, C):
        trials.want(one)
    first = trials.begin(JobId("1"))
    assert first.job.startswith(CALIBRATION)
    trials.want(A)
    trials.spare(B)
    assert len(trials) == 1, "the first is being tried, the second needs it no more"
    second = trials.begin(JobId("2"))
    assert [trials.end(one, 0.0) for one in (first.job, second.job, JobId("other"))] == [A, C, None]
    assert not trials


def test_a_trial_gives_way_to_a_user_and_is_repeated() -> None:
    trials = DrafterTrials(ModelId("m"), InstanceId("s"))
    trials.want(A)
    first = trials.begin(JobId("1"))
    assert trials.interrupt() == [first.job]
    assert trials.interrupt() == []
    assert trials.end(first.job, 0.0) is None, "a trial that was cut short tells nothing"
    assert trials.end(trials.begin(JobId("2")).job, 0.0) == A


def test_a_trial_waits_until_no_user_has_worked_for_a_while() -> None:
    trials = DrafterTrials(ModelId("m"), InstanceId("s"))
    assert not trials.due(0.0), "nobody waits for a trial"
    trials.want(A)
    assert trials.due(0.0), "no user was here yet"
    trials.end(JobId("a user's"), 10.0)
    assert not trials.due(10.0 + TRIAL_AFTER_S / 2)
    assert trials.due(10.0 + TRIAL_AFTER_S)
    trials.end(trials.begin(JobId("1")).job, 11.0)
    trials.want(B)
    assert trials.due(11.0), "a trial is no user's job"


def test_a_trial_waits_as_long_as_it_was_told_to() -> None:
    trials = DrafterTrials(ModelId("m"), InstanceId("s"))
    trials.want(A)
    trials.wait(10.0, JUDGING_S)
    trials.end(JobId("a part of an answer that is judged"), 11.0)
    assert not trials.due(10.0 + JUDGING_S - 0.1), "the next part is still to come"
    assert trials.due(10.0 + JUDGING_S)


def test_real_work_tells_once_whether_a_drafter_pays() -> None:
    target = FakeTarget(n_slots=2)
    core = make_core(target, ngram=False)
    core.attach(drafter(), 0.0)
    driver = Driver(core, target, between=always_drafting)
    for name in ("one", "two"):
        driver.submit(job(name, max_tokens=100, ignore_eos=True), [3, 4, 5, 6])
        driver.run()
    (told,) = [event for event in driver.told if isinstance(event, DrafterChecked)]
    assert told.drafter == NAME
    assert told.compared >= 16
    core.assess(NAME)
    assert not driver.read(), "it was told before"


def test_a_verdict_that_was_wrong_is_taken_back_and_ever_more_rarely_changed() -> None:
    drafter_pool = make_core(FakeTarget(n_slots=2), ngram=False).drafter_pool
    one = AttachedDrafter(NAME, NodeId("here"), beside=True)
    drafter_pool.attach(one)
    record = drafter_pool.calibrations[NAME] = Calibration()
    for _ in range(2 * ENOUGH_TO_TELL):
        record.learn(0.9, right=True)

    def told_after(texts: int, token_ms: float) -> list[bool]:
        one.token_ms = token_ms
        return [verdict.pays for _ in range(texts) for verdict in drafter_pool.text_ended(8)]

    slow, quick = 2000.0, 2.0
    assert told_after(1, slow) == [False]
    assert told_after(1, quick) == [True], "its first trial may have met a busy machine"
    assert told_after(1, slow) == []
    assert told_after(1, slow) == [False]
    assert told_after(3, quick) == []
    assert told_after(5, quick) == [True]
