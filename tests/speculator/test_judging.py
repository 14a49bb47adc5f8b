"""Given answers are scored, and tokens on which drafters agree stand until they are read."""

import random
from dataclasses import replace as with_fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.speculator.fakes import END, Driver, FakePipeline, FakeTarget, drafts, job, make_core, opening, text_of
from twd.speculator.core.session import PreparedRequest
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, NodeId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import FinishReason, JobFinished, JobSubmitted, Judge, Speculation, TokensAccepted
from twd.wire.judging import ModeClosed, TokensAgreed
from twd.wire.prefix import prefix_hash

PROMPT = list(range(2, 32))


def judged(driver: Driver, given: list[int], **judge: object) -> tuple[list[TokensAccepted], JobFinished]:
    name = f"j{len(driver.told)}"
    asked = job(name, judge=Judge(text="x", **judge), max_tokens=40)  # type: ignore[arg-type]
    submit(driver, asked, with_fields(opening(name, PROMPT), judged=tuple(given)))
    return ended(driver, asked)


def submit(driver: Driver, asked: JobSubmitted, prepared: PreparedRequest) -> None:
    driver.core.check(asked)
    driver.core.submit(asked, prepared, driver.now)
    driver.read()


def ended(driver: Driver, asked: JobSubmitted) -> tuple[list[TokensAccepted], JobFinished]:
    while not any(isinstance(one, JobFinished) and one.job == asked.job for one in driver.told):
        driver.turn()
    told = [one for one in driver.told if getattr(one, "job", "") == asked.job]
    end = next(one for one in told if isinstance(one, JobFinished))
    return [one for one in told if isinstance(one, TokensAccepted) and one.tokens], end


def driver(target: FakeTarget | None = None, **limits: object) -> Driver:
    target = target or FakeTarget()
    core = make_core(target, score_rows=target.window_max, **limits)  # type: ignore[arg-type]
    return Driver(core, target)


def test_each_token_of_a_given_answer_is_scored() -> None:
    truth = text_of(PROMPT, 12)
    given = [*truth[:5], 7 if truth[5] != 7 else 8, *truth[6:]]
    pieces, end = judged(driver(), given)
    assert [token for piece in pieces for token in piece.tokens] == given
    gaps = [score.gap for piece in pieces for score in piece.scores]
    assert gaps[:5] == [0.0] * 5
    assert gaps[5] > 0.0
    assert end.stats.completion_tokens == len(given)


def test_a_pipeline_scores_as_a_model_in_this_process_does() -> None:
    target = FakePipeline(n_slots=2)
    one = Driver(make_core(target, score_rows=12, prefill_rows=12), target)
    truth = text_of(PROMPT, 30)
    one.submit(job("plain"), PROMPT)
    given = [*truth[:20], 7 if truth[20] != 7 else 8, *truth[21:]]
    pieces, end = judged(one, given, ends=True)
    assert [token for piece in pieces for token in piece.tokens] == given
    gaps = [score.gap for piece in pieces for score in piece.scores]
    assert gaps[:20] == [0.0] * 20
    assert gaps[20] > 0.0
    assert end.end_score is not None
    ended(one, job("plain"))
    assert one.tokens("plain") == text_of(PROMPT, 40)


def test_the_end_is_scored_where_it_is_given() -> None:
    _, end = judged(driver(), text_of(PROMPT, 6), ends=True)
    assert end.end_score is not None
    assert (end.end_score.gap, end.reason) == (3.0, FinishReason.STOP)


def test_an_end_token_in_a_given_answer_is_scored_as_its_end() -> None:
    truth = text_of(PROMPT, 6)
    pieces, end = judged(driver(), [*truth[:4], END, *truth[4:]])
    assert [token for piece in pieces for token in piece.tokens] == truth[:4]
    assert end.end_score is not None
    assert end.end_score.gap > 0.0, "the target would not have ended there"


@pytest.mark.parametrize("make", [FakeTarget, FakePipeline])
def test_an_answer_that_does_not_fit_the_context_is_cut(make: type[FakeTarget]) -> None:
    one = driver(make(ctx_size=len(PROMPT) + 10))
    asked = job("long", judge=Judge(text="x", ends=True), at_most=True)
    submit(one, asked, with_fields(opening("long", PROMPT), judged=tuple(text_of(PROMPT, 20))))
    pieces, end = ended(one, asked)
    assert sum(len(piece.tokens) for piece in pieces) == 10
    assert end.reason is FinishReason.LENGTH


def test_no_more_is_scored_than_is_asked_for() -> None:
    pieces, _ = judged(driver(prefill_rows=8), [9, 9, 9, *text_of(PROMPT, 30)], stop_above=0.0)
    assert sum(len(piece.tokens) for piece in pieces) < 20


def test_without_a_text_the_prompt_is_read() -> None:
    one = driver()
    pieces, end = judged(one, [])
    assert not pieces
    assert end.stats.completion_tokens == 0
    assert one.target.rows == len(PROMPT)


def test_what_an_earlier_attempt_scored_is_not_scored_again() -> None:
    one, truth = driver(), text_of(PROMPT, 10)
    asked = job("again", judge=Judge(text="x", behind=0), resume=truth[:4])
    submit(one, asked, with_fields(opening("again", PROMPT), judged=tuple(truth)))
    pieces, _ = ended(one, asked)
    assert [token for piece in pieces for token in piece.tokens] == truth[4:]


def test_who_cannot_score_says_so() -> None:
    with pytest.raises(TwdError) as refused:
        make_core(FakeTarget()).check(job("j", judge=Judge(text="x")))
    assert refused.value.code is FailureCode.UNSUPPORTED


def test_running_texts_are_the_same_beside_a_judged_one() -> None:
    one, truth = driver(), text_of(PROMPT, 40)
    one.submit(job("plain"), PROMPT)
    asked = job("judged", judge=Judge(text="x"))
    submit(one, asked, with_fields(opening("judged", PROMPT), judged=tuple(truth[:20])))
    ended(one, asked)
    pieces, _ = ended(one, job("plain"))
    assert [token for piece in pieces for token in piece.tokens] == truth


# -- agreement -------------------------------------------------------------------------------------


@pytest.fixture(params=[FakeTarget, FakePipeline])
def one(request: pytest.FixtureRequest) -> Driver:
    """A target in this process, and a ring."""
    return voting(request.param())


def voting(target: FakeTarget, **limits: object) -> Driver:
    given: dict[str, object] = {"consensus": "majority", "unread": 16} | limits
    return driver(target, **given)


def begin(one: Driver, name: str = "vote", **fields: object) -> None:
    for voter in ("a", "b", "c"):
        one.core.attach(AttachedDrafter(InstanceId(voter), NodeId("n"), beside=False, model=voter), one.now)
    one.submit(job(name, **{"speculation": Speculation(consensus=True)} | fields), PROMPT)
    while not any(isinstance(event, TokensAccepted) and event.tokens for event in one.told):
        one.turn()


def votes(one: Driver, agreed: list[int], **fields: object) -> TokensAgreed:
    session = one.core.by_id[SessionId("s-vote")]
    place = fields.get("at", len(session.tokens))
    assert isinstance(place, int)
    prefix = prefix_hash(session.tokens[:place])
    return agreement(agreed, **{"session": session.id, "at": place, "prefix": prefix} | fields)


def agreement(agreed: list[int], **fields: object) -> TokensAgreed:
    given: dict[str, object] = {"racer": InstanceId("r"), "tokens": agreed, "votes": 2, "asked": 3} | fields
    return TokensAgreed(**given)  # type: ignore[arg-type]


def said(one: Driver) -> list[int]:
    return [token for event in one.told if isinstance(event, TokensAccepted) for token in event.tokens]


def settle(one: Driver) -> None:
    session = one.core.by_id[SessionId("s-vote")]
    while session.inflight_windows:
        one.turn()


def test_agreed_tokens_stand_before_the_target_reads_them(one: Driver) -> None:
    begin(one)
    settle(one)
    before = len(said(one))
    following = text_of([*PROMPT, *said(one)], 5)
    one.core.agree(votes(one, following), one.now)
    one.read()
    assert said(one)[before:] == following
    _, end = ended(one, job("vote"))
    assert said(one) == text_of(PROMPT, 40)
    assert end.judged is not None
    assert (end.judged.approximate, end.judged.kept, end.judged.unlike) == (False, 5, 0)


def test_drafts_behind_agreed_tokens_are_verified_with_the_same_pass(one: Driver) -> None:
    begin(one, speculation=Speculation(consensus=True, window=4))
    settle(one)
    session = one.core.by_id[SessionId("s-vote")]
    following = text_of(session.tokens, 8)
    passes = session.spec_stats.passes
    one.core.agree(votes(one, following[:5]), one.now)
    at, prefix = len(session.tokens), prefix_hash(session.tokens)
    draft = DraftProposed(session=session.id, drafter=InstanceId("a"), at=at, prefix=prefix, tokens=following[5:])
    one.core.draft(draft, draft.tokens, one.now)
    before = len(said(one))
    while not session.spec_stats.passes > passes or session.unread:
        one.turn()
    assert len(said(one)) >= before + 5 + 4
    assert said(one) == text_of(PROMPT, len(said(one)))


def test_what_was_wrong_is_counted_when_it_is_read(one: Driver) -> None:
    begin(one)
    settle(one)
    truth = text_of([*PROMPT, *said(one)], 1)[0]
    one.core.agree(votes(one, [3 if truth != 3 else 4]), one.now)
    _, end = ended(one, job("vote"))
    assert end.judged is not None
    assert (end.judged.approximate, end.judged.unlike) == (True, 1)
    assert said(one) != text_of(PROMPT, 40)


def test_unstreamed_answers_stay_exact(one: Driver) -> None:
    begin(one, whole=True)
    settle(one)
    one.core.agree(votes(one, [3, 3, 3]), one.now)
    _, end = ended(one, job("vote"))
    assert said(one) == text_of(PROMPT, 40)
    assert end.judged is not None
    assert not end.judged.approximate


@pytest.mark.parametrize(
    "wrong",
    [
        {"votes": 1},
        {"votes": 2, "asked": 4},
        {"votes": 9},
        {"prefix": 1},
        {"at": 2},
        {"at": 500},
        {"session": SessionId("nobody")},
        {"tokens": [END]},
        {"tokens": [10**6]},
    ],
)
def test_what_does_not_fit_changes_nothing(one: Driver, wrong: dict[str, object]) -> None:
    begin(one)
    settle(one)
    before = len(said(one))
    one.core.agree(votes(one, [3], **wrong), one.now)
    one.read()
    assert len(said(one)) == before
    ended(one, job("vote"))
    assert said(one) == text_of(PROMPT, 40)


def test_no_more_stands_unread_than_may(one: Driver) -> None:
    begin(one)
    settle(one)
    one.core.agree(votes(one, [3] * 100), one.now)
    assert one.core.by_id[SessionId("s-vote")].unread == 16


def test_sessions_that_did_not_ask_are_exact(one: Driver) -> None:
    one.submit(job("vote"), PROMPT)
    while not said(one):
        one.turn()
    settle(one)
    one.core.agree(votes(one, [3]), one.now)
    _, end = ended(one, job("vote"))
    assert said(one) == text_of(PROMPT, 40)
    assert end.judged is None


def test_where_too_much_was_wrong_texts_are_exact_again(one: Driver) -> None:
    for _ in range(60):
        one.core.consensus.audit.learn(True)
    begin(one)
    settle(one)
    one.core.agree(votes(one, [3]), one.now)
    ended(one, job("vote"))
    assert said(one) == text_of(PROMPT, 40)


def test_it_is_told_once_that_too_much_was_wrong() -> None:
    one = voting(FakeTarget(), max_error=0.01, unread=64)
    begin(one)
    for _ in range(3):
        settle(one)
        one.core.agree(votes(one, [3] * 8), one.now)
        one.turn()
    ended(one, job("vote"))
    (closed,) = [event for event in one.told if isinstance(event, ModeClosed)]
    assert closed.mode == "consensus"
    assert "agreed tokens were wrong" in closed.why


def test_the_last_tokens_are_read_in_a_share_of_the_texts() -> None:
    one = voting(FakePipeline(), audit=1.0)
    begin(one, max_tokens=8)
    settle(one)
    one.core.agree(votes(one, [3] * 8), one.now)
    one.core.agree(votes(one, [3] * 8), one.now)
    _, end = ended(one, job("vote"))
    assert len(said(one)) == 8
    assert end.judged is not None
    assert end.judged.unlike > 0
    assert end.judged.why.endswith("0 of them were never read")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    ring=st.booleans(),
    right=st.sampled_from([0.0, 0.5, 1.0]),
    losses=st.sampled_from([0.0, 0.05, 0.2]),
    audit=st.sampled_from([0.0, 1.0]),
)
def test_whatever_is_agreed_nothing_is_told_twice_and_each_text_ends(
    seed: int, ring: bool, right: float, losses: float, audit: float
) -> None:
    rng = random.Random(seed)
    target = FakePipeline(n_slots=3) if ring else FakeTarget(n_slots=3)

    def meddle(driver: Driver) -> None:
        driver.now += rng.random() * 0.01
        if driver.core.by_id:
            guess = drafts(rng, driver, 0.8, rng.choice(["a", "b"]))
            driver.core.draft(guess, guess.tokens, driver.now)
        for session in list(driver.core.by_id.values()):
            tokens = text_of(session.tokens, rng.randint(1, 12)) if rng.random() < right else [rng.randrange(2, 50)]
            back = rng.randint(0, min(3, len(session.tokens)))
            at = len(session.tokens) - back
            agreed = [*session.tokens[at:], *tokens] if right == 1.0 or rng.random() < 0.9 else tokens
            if agreed and rng.random() < 0.5:
                place = {"at": at, "prefix": prefix_hash(session.tokens[:at]), "session": session.id}
                driver.core.agree(agreement(agreed, **place), driver.now)
        if ring and rng.random() < losses and driver.turns < 60:
            target.lose()  # type: ignore[attr-defined]
            driver.core.replay()

    one = voting(target, audit=audit, max_error=0.9)
    one.between = meddle
    for voter in ("a", "b", "c"):
        one.core.attach(AttachedDrafter(InstanceId(voter), NodeId("n"), beside=False, model=voter), one.now)
    prompts = {f"j{i}": [rng.randrange(2, 50) for _ in range(rng.randint(1, 40))] for i in range(rng.randint(1, 5))}
    for number, (name, prompt) in enumerate(prompts.items()):
        one.submit(job(name, speculation=Speculation(consensus=True), whole=number == 1), prompt)
    one.run()
    for number, (name, prompt) in enumerate(prompts.items()):
        ends = [event for event in one.told if isinstance(event, JobFinished) and event.job == name]
        assert len(ends) == 1
        made, judged = one.tokens(name), ends[0].judged
        assert judged is not None
        assert len(made) == ends[0].stats.completion_tokens
        if right == 1.0 or number == 1:
            assert made == text_of(prompt, 40)
        if not judged.approximate:
            assert made == text_of(prompt, 40)
        assert judged.kept <= len(made)
