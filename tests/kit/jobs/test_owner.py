"""An owner brings its job to exactly one end, whatever workers and network do."""

import msgspec
import pytest

from tests.kit.jobs.owned_jobs import (
    JOB,
    ONE,
    POLICY,
    TWO,
    failed,
    failure,
    finished,
    owner,
    queued,
    running,
    submission,
    submitted,
    tokens,
)
from twd.kit.jobs.owner import UNANSWERED_S, Deliver, Finish, JobOwner, OwnerAction, Release, Submit
from twd.wire.base import JobId, ModelId, SessionId
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    JobStarted,
    Sampling,
    TokensAccepted,
)


def test_a_job_that_goes_well() -> None:
    one = running()
    first, second = tokens(0, [1, 2]), tokens(2, [3])
    assert one.handle(first, 1.0) == [Deliver(first)]
    assert one.handle(second, 2.0) == [Deliver(second)]
    end = finished(3)
    assert one.handle(end, 2.5) == [Finish(end)]
    assert one.ended
    assert one.handle(end, 2.6) == []
    assert one.tick(1e9) == []
    assert one.cancel("late", 3.0) == []


def test_a_job_without_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed"):
        JobOwner(submitted(sampling=Sampling()), POLICY, now=0.0)


@pytest.mark.parametrize("now", [110.847, 1e6 / 3, 0.1])
def test_a_job_that_is_submitted_at_once_has_all_of_its_time(now: float) -> None:
    job = submitted(deadline_ms=20_000)
    assert submission(JobOwner(job, POLICY, now).begin(now)).deadline_ms == 20_000


def test_repeats_and_other_jobs_are_ignored() -> None:
    one = running()
    event = tokens(0, [1, 2])
    one.handle(event, 1.0)
    assert one.handle(event, 1.1) == []
    assert one.handle(tokens(0, [1]), 1.1) == []
    other = TokensAccepted(job=JobId("other"), attempt=1, session=SessionId("s"), at=0, index=2, tokens=[9])
    assert one.handle(other, 1.1) == []
    assert one.tokens == [1, 2]


def test_reordered_pieces_are_delivered_in_order() -> None:
    one = running()
    early, late = tokens(2, [3]), tokens(0, [1, 2])
    assert one.handle(early, 1.0) == []
    assert one.handle(finished(3), 1.1) == []
    actions = one.handle(late, 1.2)
    assert actions == [Deliver(late), Deliver(early), Finish(finished(3))]


def test_a_hole_that_stays_is_filled_by_another_worker() -> None:
    one = running()
    one.handle(tokens(0, [1]), 1.0)
    one.handle(tokens(5, [6]), 1.1)
    assert one.due == pytest.approx(1.1 + POLICY.gap_s)
    actions = one.tick(one.due)
    assert isinstance(actions[0], Release)
    assert actions[0].event.attempts == 1
    again = submission(actions)
    assert (again.attempt, again.resume, again.sampling.seed) == (2, [1], 7)


def test_an_end_whose_text_is_not_whole_is_no_end() -> None:
    one = running()
    one.handle(tokens(0, [1]), 1.0)
    assert one.handle(finished(3), 1.1) == []
    again = submission(one.tick(one.due))
    assert again.resume == [1]
    one.handle(queued(2), 2.0)
    one.handle(tokens(1, [2, 3], attempt=2), 2.0)
    assert one.handle(finished(3, attempt=2), 2.1) == [Finish(finished(3, attempt=2))]


def test_a_silent_worker_is_replaced_and_the_deadline_shrinks() -> None:
    one = running()
    one.handle(tokens(0, [1, 2]), 10.0)
    assert one.tick(13.9) == []
    again = submission(one.tick(14.0))
    assert (again.attempt, again.resume, again.deadline_ms) == (2, [1, 2], 46_000)
    assert one.handle(tokens(2, [3], attempt=1), 14.1) == []
    assert one.handle(finished(2, attempt=1), 14.1) == []
    assert not one.ended


def test_after_a_loss_of_the_bus_a_silent_worker_is_replaced_sooner() -> None:
    """The last event of a job may have been lost with the broker: nobody sends it again."""
    one = running()
    one.handle(tokens(0, [1, 2]), 10.0)
    assert one.bus_back(11.0) == []
    assert one.due == pytest.approx(11.0 + POLICY.silence_after_loss_s)
    assert one.tick(one.due - 0.1) == []
    assert submission(one.tick(one.due)).resume == [1, 2]


def test_after_a_loss_of_the_bus_a_worker_that_speaks_keeps_its_job() -> None:
    one = running()
    one.handle(tokens(0, [1, 2]), 10.0)
    one.bus_back(11.0)
    one.handle(tokens(2, [], text=""), 12.0)
    assert one.tick(13.0) == []
    assert one.due == pytest.approx(12.0 + POLICY.silence_s)


def test_a_job_that_waits_for_its_next_try_does_not_mind_the_bus() -> None:
    one = JobOwner(submitted(), POLICY, now=0.0)
    one.begin(0.0)
    one.unanswered(one.attempt, Failure(code=FailureCode.BUS_DOWN, message="away"), 1.0)
    assert one.due == pytest.approx(1.0 + POLICY.backoff_s)
    one.bus_back(1.1)
    assert one.due == pytest.approx(1.0 + POLICY.backoff_s)


def test_news_without_tokens_keeps_a_worker_alive() -> None:
    one = running()
    for second in range(1, 20):
        assert one.handle(tokens(0, [], text=""), float(second)) == []
        assert one.tick(second + 0.9) == []
    assert one.attempt == 1


def test_a_worker_that_is_gone_is_replaced_at_once() -> None:
    one = running()
    assert one.worker_gone(TWO, 1.0) == []
    assert submission(one.worker_gone(ONE, 1.0)).attempt == 2
    assert one.worker_gone(ONE, 1.1) == []


def test_events_that_overtake_the_answer_count_when_it_says_that_they_are_from_the_worker() -> None:
    one, first = owner(), tokens(0, [1])
    forged = msgspec.structs.replace(first, text="forged", source=TWO)
    assert one.handle(forged, 0.5) == []
    assert one.handle(first, 0.5) == []
    assert one.answer(queued(), 0.6) == [Deliver(first)]
    assert submission(one.worker_gone(ONE, 2.0)).resume == [1]


def test_nobody_but_the_worker_ends_a_job_or_adds_to_it() -> None:
    one = running()
    for event in (tokens(0, [9]), finished(0), failed(FailureCode.INTERNAL)):
        assert one.handle(msgspec.structs.replace(event, source=TWO), 1.0) == []
    assert not one.ended
    assert one.place == 0


def test_without_the_answer_nobody_is_believed_and_the_job_is_offered_again() -> None:
    one = owner()
    one.handle(tokens(0, [1]), 0.5)
    lost = Failure(code=FailureCode.DEADLINE, message="no answer")
    assert isinstance(one.unanswered(1, lost, 1.0)[0], Release)
    assert submission(one.tick(one.due)).resume == []


@pytest.mark.parametrize("code", [FailureCode.BUSY, FailureCode.NOBODY_HOME, FailureCode.DRAINING])
def test_a_job_that_nobody_takes_is_offered_again_for_a_while(code: FailureCode) -> None:
    one = owner()
    now, seen = 0.0, []
    actions: list[OwnerAction] = one.handle(failed(code), now)
    while not one.ended:
        now = one.due
        actions = one.tick(now)
        if isinstance(actions[-1], Submit):
            seen.append(now)
            actions = one.handle(failed(code, actions[-1].job.attempt), now)
    assert failure(actions).code is code
    assert seen == pytest.approx([0.25, 0.75, 1.75, 3.75])


def test_only_a_worker_that_takes_the_job_over_counts() -> None:
    one, now = running(), 1.0
    one.worker_gone(ONE, now)
    assert one.taken_over == 0
    for _ in range(3):
        one.unanswered(one.attempt, Failure(code=FailureCode.NOBODY_HOME, message="nobody"), now)
        now = one.due
        assert submission(one.tick(now)).attempt == one.attempt
    assert (one.attempt, one.taken_over) == (5, 0)
    one.handle(queued(one.attempt, TWO), now)
    one.handle(tokens(0, [1], attempt=one.attempt), now)
    assert one.taken_over == 1


def test_a_worker_that_comes_ends_the_wait_for_the_next_try() -> None:
    one = owner()
    one.unanswered(1, Failure(code=FailureCode.NOBODY_HOME, message="nobody"), 1.0)
    assert one.due > 1.1
    assert submission(one.somebody_home(1.1)).attempt == 2
    assert one.somebody_home(1.2) == []
    one.cancel("the client left", 1.3)
    assert one.somebody_home(1.4) == []


def test_a_worker_that_comes_is_asked_in_place_of_one_that_does_not_answer() -> None:
    one = owner()
    assert one.somebody_home(UNANSWERED_S / 2) == [], "it may have been asked just now"
    release, submit = one.somebody_home(UNANSWERED_S)
    assert isinstance(release, Release)
    assert release.event.attempts == 1
    assert submission([submit]).attempt == 2
    one.handle(queued(2, TWO), 0.3)
    assert one.worker == TWO
    assert one.somebody_home(5.0) == [], "it has a worker"


def test_an_unanswered_request_counts_as_a_refusal() -> None:
    one = owner()
    nobody = Failure(code=FailureCode.NOBODY_HOME, message="nobody")
    [release] = one.unanswered(1, nobody, 1.0)
    assert isinstance(release, Release)
    assert one.unanswered(1, nobody, 1.0) == []
    assert submission(one.tick(one.due)).attempt == 2
    assert one.handle(queued(1), 1.5) == []
    assert one.handle(queued(2), 1.5) == []
    assert one.worker == ONE


@pytest.mark.parametrize("code", [FailureCode.TOO_LARGE, FailureCode.BACKEND_BROKEN, FailureCode.FORBIDDEN])
def test_a_request_that_cannot_be_asked_ends_the_job_at_once(code: FailureCode) -> None:
    one = owner()
    actions = one.unanswered(1, Failure(code=code, message="as told"), 1.0)
    assert failure(actions) == Failure(code=code, message="as told")
    assert one.ended


def test_a_failure_that_stays_a_failure_ends_the_job() -> None:
    one = running()
    actions = one.handle(failed(FailureCode.CONTEXT_OVERFLOW), 1.0)
    assert failure(actions) == Failure(code=FailureCode.CONTEXT_OVERFLOW, message="as told")
    assert one.ended


@pytest.mark.parametrize("code", [FailureCode.WORKER_LOST, FailureCode.BACKEND_DOWN, FailureCode.CANCELLED])
def test_a_worker_that_gives_up_is_replaced_at_once(code: FailureCode) -> None:
    one = running()
    one.handle(tokens(0, [1]), 1.0)
    assert submission(one.handle(failed(code), 2.0)).resume == [1]


def test_a_job_that_kills_its_workers_is_given_up() -> None:
    one = owner()
    now, losses = 0.0, 0
    while not one.ended:
        one.handle(queued(one.attempt), now)
        actions = one.worker_gone(ONE, now)
        losses += 1
        while not one.ended and not any(isinstance(action, Submit) for action in actions):
            now = one.due
            actions = one.tick(now)
    assert failure(actions).code is FailureCode.WORKER_LOST
    assert losses == POLICY.losses + 1


def test_new_tokens_refill_the_budget_of_losses() -> None:
    one = running()
    now = 0.0
    for place in range(20):
        one.handle(queued(one.attempt), now)
        one.handle(tokens(place, [place], attempt=one.attempt), now)
        now += 1.0
        assert submission(one.worker_gone(ONE, now)).resume == list(range(place + 1))


def test_the_deadline_ends_a_job_that_still_runs() -> None:
    one = owner(deadline_ms=2_000)
    one.handle(queued(), 0.0)
    assert one.due == 2.0
    actions = one.tick(2.0)
    assert isinstance(actions[0], Release)
    assert actions[0].event.attempts == 0
    assert failure(actions).code is FailureCode.DEADLINE


def test_cancelling_is_the_end_and_tells_the_worker() -> None:
    one = running()
    actions = one.cancel("client went away", 1.0)
    assert isinstance(actions[0], Release)
    assert failure(actions).code is FailureCode.CANCELLED
    assert one.handle(finished(0), 1.1) == []


def test_a_second_session_of_the_same_attempt_is_not_mixed_in() -> None:
    one = running()
    one.handle(JobStarted(job=JOB, attempt=1, session=SessionId("a"), model=ModelId("m"), prompt_tokens=3), 0.5)
    assert one.started is not None
    assert one.handle(tokens(0, [9], session="b"), 1.0) == []
    mine = tokens(0, [1], session="a")
    assert one.handle(mine, 1.0) == [Deliver(mine)]


def test_pieces_that_overlap_are_not_believed() -> None:
    one = running()
    one.handle(tokens(0, [1, 2]), 1.0)
    assert submission(one.handle(tokens(1, [2, 3]), 1.1)).resume == [1, 2]


def test_a_held_back_tail_is_delivered_with_the_end() -> None:
    one = running()
    one.handle(tokens(0, [1]), 1.0)
    end = msgspec.structs.replace(finished(1), tail="tail")
    deliver, finish = one.handle(end, 1.1)
    assert isinstance(deliver, Deliver)
    assert (deliver.event.text, deliver.event.tokens, deliver.event.index) == ("tail", [], 1)
    assert finish == Finish(end)


def test_a_text_without_tokens_cannot_change_hands() -> None:
    one = running()
    chunk = tokens(0, [], text="once upon")
    assert one.handle(chunk, 1.0) == [Deliver(chunk)]
    actions = one.worker_gone(ONE, 2.0)
    assert failure(actions).code is FailureCode.WORKER_LOST


def test_a_flood_of_early_pieces_is_bounded() -> None:
    one = running()
    actions: list[OwnerAction] = []
    for place in range(1, 400):
        actions = one.handle(tokens(place, [place]), 1.0)
        if actions:
            break
    assert submission(actions).resume == []
    assert place < 300
