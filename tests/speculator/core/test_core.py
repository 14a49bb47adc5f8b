"""The session machine: whatever is drafted, lost or repeated, the text is the target's own."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.speculator.fakes import VOCAB, Driver, FakeTarget, drafts, job, make_core, text_of
from twd.decoding.window import Window
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, JobId, NodeId, SessionId
from twd.wire.draft import DraftGranted, DraftProposed, SessionClosed, SessionOpened
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import FinishReason, JobFailed, JobFinished, JobStarted, Speculation, TokensAccepted
from twd.wire.prefix import prefix_hash

PROMPT = [5, 6, 7, 8]


def ends(driver: Driver) -> list[JobFinished | JobFailed]:
    return [event for event in driver.told if isinstance(event, JobFinished | JobFailed)]


def plain(**fields: Any) -> Driver:
    target = FakeTarget()
    driver = Driver(make_core(target), target)
    driver.submit(job(speculation=Speculation(enabled=False), **fields), PROMPT)
    driver.run()
    return driver


def test_plain_decoding_makes_the_targets_text() -> None:
    driver = plain()
    assert driver.tokens("j") == text_of(PROMPT, 40)
    (end,) = ends(driver)
    assert isinstance(end, JobFinished)
    assert end.stats.completion_tokens == len(text_of(PROMPT, 40))
    assert end.stats.prompt_tokens == 4


@examples(150)
@given(
    seed=st.integers(0, 2**32),
    quality=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    trees=st.booleans(),
    jobs=st.integers(1, 4),
    window=st.sampled_from([0, 0, 1, 5]),
    stream_ms=st.sampled_from([0.0, 50.0, 400.0]),
    steps_ms=st.sampled_from([0.0, 30.0, 100.0]),
)
def test_drafts_change_speed_never_text(
    seed: int, quality: float, trees: bool, jobs: int, window: int, stream_ms: float, steps_ms: float
) -> None:
    rng = random.Random(seed)
    target = FakeTarget(trees=trees)
    core = make_core(target, stream_ms=stream_ms, steps_ms=steps_ms)
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=rng.random() < 0.5), 0.0)

    def meddle(driver: Driver) -> None:
        driver.now += rng.random() * 0.004
        for _ in range(rng.randint(0, 3)):
            if driver.core.by_id:
                event = drafts(rng, driver, quality, rng.choice(["d", "d", "e", "stranger"]))
                driver.core.draft(event, event.tokens, driver.now)
        match rng.randrange(20):
            case 0:
                driver.core.detach(InstanceId("d"), driver.now)
            case 1:
                driver.core.attach(AttachedDrafter(InstanceId(rng.choice("de")), NodeId("n"), beside=False), driver.now)
            case 2:
                driver.core.tick(driver.now)

    driver = Driver(core, target, between=meddle)
    prompts = {f"j{i}": [rng.randrange(2, VOCAB) for _ in range(rng.randint(1, 60))] for i in range(jobs)}
    for name, prompt in prompts.items():
        driver.submit(job(name, speculation=Speculation(window=window)), prompt)
    driver.run()
    for name, prompt in prompts.items():
        assert driver.tokens(name) == text_of(prompt, 40)
    assert len(ends(driver)) == jobs
    assert all(isinstance(end, JobFinished) for end in ends(driver))


def test_without_a_fallback_a_job_fails_where_its_drafters_do() -> None:
    target = FakeTarget()
    core = make_core(target)
    core.limits = replace(core.limits, needs_drafters=True)
    with pytest.raises(TwdError, match="fallback_on_draft_failure"):
        core.check(job())
    assert core.check(job(speculation=Speculation(enabled=False))) == 0
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False), 0.0)
    assert core.check(job()) == 0
    driver = Driver(core, target)
    driver.submit(job(), [3, 4, 5])
    driver.submit(job("plain", speculation=Speculation(enabled=False)), [3, 4, 5])
    core.detach(InstanceId("d"), driver.now)
    driver.run()
    kinds = {end.job: type(end) for end in ends(driver)}
    assert kinds == {"j": JobFailed, "plain": JobFinished}


@given(cut=st.integers(0, 40), seed=st.integers(0, 100))
@examples(40)
def test_any_replica_continues_from_any_prefix(cut: int, seed: int) -> None:
    prompt = [2 + (seed * 7 + i) % 40 for i in range(5)]
    whole = text_of(prompt, 40)
    target = FakeTarget()
    driver = Driver(make_core(target), target)
    driver.submit(job(resume=whole[:cut], attempt=2), prompt)
    if cut >= len(whole) == 40:
        return
    driver.run()
    made = [token for event in driver.told if isinstance(event, TokensAccepted) for token in event.tokens]
    assert whole[:cut] + made == whole


def test_max_tokens_is_exact_and_says_length() -> None:
    for limit in (1, 2, 3, 7):
        driver = plain(max_tokens=limit)
        assert len(driver.tokens("j")) == limit
        (end,) = ends(driver)
        assert isinstance(end, JobFinished)
        assert end.reason is FinishReason.LENGTH


def test_zero_tokens_end_without_a_pass() -> None:
    driver = plain(max_tokens=0)
    assert driver.target.rows == 0
    assert isinstance(ends(driver)[0], JobFinished)


def test_a_stop_string_across_tokens_ends_the_text_before_it() -> None:
    whole = text_of(PROMPT, 40)
    shown = "".join(f"{token} " for token in whole)
    stop = shown[10:16]
    driver = plain(stop=[stop])
    text = "".join(event.text for event in driver.told if isinstance(event, TokensAccepted))
    assert text == shown[: shown.index(stop)]
    (end,) = ends(driver)
    assert isinstance(end, JobFinished)
    assert (end.reason, end.stop) == (FinishReason.STOP, stop)


@pytest.mark.parametrize(("prompt", "field"), [(PROMPT, "max_tokens"), ([1] * 32, "prompt")])
def test_what_cannot_fit_fails_before_any_work(prompt: list[int], field: str) -> None:
    target = FakeTarget(ctx_size=32)
    driver = Driver(make_core(target), target)
    driver.submit(job(max_tokens=40), prompt)
    (end,) = ends(driver)
    assert isinstance(end, JobFailed)
    assert (end.failure.code, end.failure.field) == (FailureCode.CONTEXT_OVERFLOW, field)
    assert target.opened == 0


@pytest.mark.parametrize("limit", [{"max_tokens": None}, {"max_tokens": 500, "at_most": True}])
def test_a_text_without_limit_or_with_a_large_one_ends_with_the_context(limit: dict[str, Any]) -> None:
    target = FakeTarget(ctx_size=24)
    driver = Driver(make_core(target), target)
    driver.submit(job(ignore_eos=True, **limit), PROMPT)
    driver.run()
    assert len(driver.tokens("j")) == 20
    (end,) = ends(driver)
    assert isinstance(end, JobFinished)
    assert end.reason is FinishReason.LENGTH


def test_the_queue_has_a_bound() -> None:
    target = FakeTarget()
    driver = Driver(make_core(target, max_queue=2), target)
    driver.submit(job("a"), PROMPT)
    driver.submit(job("b"), PROMPT)
    with pytest.raises(TwdError) as caught:
        driver.submit(job("c"), PROMPT)
    assert caught.value.code is FailureCode.BUSY


def test_cancelling_ends_a_job_once_and_frees_its_slot() -> None:
    target = FakeTarget()
    driver = Driver(make_core(target), target)
    driver.submit(job(), PROMPT)
    for _ in range(3):
        driver.turn()
    driver.core.cancel(JobId("j"), driver.now)
    driver.core.cancel(JobId("j"), driver.now)
    driver.turn()
    (end,) = ends(driver)
    assert isinstance(end, JobFailed)
    assert end.failure.code is FailureCode.CANCELLED
    assert not target.samplers
    assert driver.core.idle


def test_a_cancel_of_an_earlier_attempt_leaves_the_later_one_alone() -> None:
    target = FakeTarget()
    driver = Driver(make_core(target), target)
    driver.submit(job(attempt=2), PROMPT)
    driver.core.cancel(JobId("j"), driver.now, attempts=1)
    assert not driver.core.idle


def test_a_deadline_ends_a_job_with_its_own_code() -> None:
    target = FakeTarget(n_slots=1)
    driver = Driver(make_core(target), target)
    driver.submit(job("slow", deadline_ms=100), PROMPT)
    driver.submit(job("waits", deadline_ms=50), PROMPT)
    driver.run()
    assert [end.failure.code for end in ends(driver) if isinstance(end, JobFailed)] == [FailureCode.DEADLINE] * 2


def test_a_new_attempt_replaces_the_old_one_silently() -> None:
    target = FakeTarget()
    driver = Driver(make_core(target), target)
    driver.submit(job(attempt=1), PROMPT)
    driver.turn()
    driver.submit(job(attempt=2), PROMPT)
    driver.run()
    assert [end.attempt for end in ends(driver)] == [2]


def test_long_prompts_leave_room_for_running_sessions() -> None:
    target = FakeTarget()
    driver = Driver(make_core(target), target)
    driver.submit(job("short", speculation=Speculation(enabled=False)), PROMPT)
    driver.turn()
    driver.submit(job("long"), [3] * 200)
    before = len(driver.tokens("short"))
    for _ in range(10):
        driver.turn()
    assert len(driver.tokens("short")) >= before + 9
    driver.run()
    assert driver.tokens("long") == text_of([3] * 200, 40)


def test_silence_is_broken_by_signs_of_life() -> None:
    target = FakeTarget(n_slots=1)
    driver = Driver(make_core(target), target)
    driver.submit(job("first"), PROMPT)
    driver.submit(job("second"), PROMPT)
    driver.turn()
    driver.now += 1.5
    driver.core.tick(driver.now)
    signs = [event.job for event in driver.read() if isinstance(event, TokensAccepted) and not event.tokens]
    assert "second" in signs


TRIED = 2
"""The credit of a drafter that is only tried."""


def test_a_useless_drafter_is_sent_to_rest_and_a_good_one_is_not() -> None:
    for quality, rests in ((0.0, True), (1.0, False)):
        rng = random.Random(3)
        target = FakeTarget()
        core = make_core(target, ngram=False)
        core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=True, token_ms=4.0), 0.0)

        def feed(driver: Driver, rng: random.Random = rng, quality: float = quality) -> None:
            for session in driver.core.by_id.values():
                history = session.tokens
                good = text_of(history, 4)
                tokens = good if rng.random() < quality else [VOCAB - 1] * 4
                event = DraftProposed(
                    session=session.id,
                    drafter=InstanceId("d"),
                    at=len(history),
                    prefix=prefix_hash(history),
                    tokens=tokens,
                    confidence=[0.8] * len(tokens),
                    more=False,
                    draft_ms=16,
                )
                driver.core.draft(event, tokens, driver.now)

        driver = Driver(core, target, between=feed)
        driver.submit(job(max_tokens=120, ignore_eos=True), PROMPT)
        driver.run()
        grants = [event.credit for event in driver.told if isinstance(event, DraftGranted)]
        assert (max(grants) <= TRIED) is rests


def test_sessions_are_told_to_drafters_and_closed() -> None:
    target = FakeTarget()
    core = make_core(target)
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False), 0.0)
    driver = Driver(core, target)
    driver.submit(job(), PROMPT)
    driver.run()
    kinds = [type(event) for event in driver.told]
    assert kinds.index(JobStarted) < kinds.index(SessionOpened) < kinds.index(SessionClosed)
    assert kinds.count(SessionClosed) == 1


def test_drafts_for_unknown_sessions_are_ignored() -> None:
    target = FakeTarget()
    core = make_core(target)
    core.draft(DraftProposed(session=SessionId("x"), drafter=InstanceId("d"), at=1, prefix=2, tokens=[1]), [1], 0.0)
    assert core.effects() == []


def test_a_failed_window_ends_its_job_with_that_failure() -> None:
    from twd.decoding.window import VerifyResult
    from twd.wire.failures import Failure

    target = FakeTarget()
    driver = Driver(make_core(target), target)
    driver.submit(job(), PROMPT)
    driver.turn()
    (session,) = driver.core.sessions.values()
    plan = driver.core.plan(driver.now)
    assert plan.windows
    failure = Failure(code=FailureCode.OUT_OF_MEMORY, message="no room")
    driver.core.verdicts([VerifyResult(session.slot, session.epoch, 0, failure=failure)], driver.now)
    driver.read()
    (end,) = ends(driver)
    assert isinstance(end, JobFailed)
    assert end.failure.code is FailureCode.OUT_OF_MEMORY


@pytest.mark.parametrize(("dear", "checked"), [(False, True), (True, False)])
def test_drafts_of_sessions_that_share_passes_are_priced_by_the_cost_of_such_passes(dear: bool, checked: bool) -> None:
    target, rng = FakeTarget(), random.Random(3)
    core = make_core(target, shared_cost=(lambda rows: 10.0 * rows) if dear else None)
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False), 0.0)
    submit, shared = target.submit, list[int]()

    def watched(windows: Sequence[Window]) -> None:
        shared.extend(len(window.tokens) - window.committed for window in windows if len(windows) > 1)
        submit(windows)

    def draft(driver: Driver) -> None:
        for _ in range(4 if len(core.by_id) > 1 else 0):
            event = drafts(rng, driver, 1.0)
            core.draft(event, event.tokens, driver.now)

    target.submit = watched  # type: ignore[method-assign]
    driver = Driver(core, target, between=draft)
    for name, prompt in (("a", PROMPT), ("b", PROMPT[::-1])):
        driver.submit(job(name), prompt)
    driver.run()
    assert driver.tokens("a") == text_of(PROMPT, 40)
    assert any(shared) is checked
