"""What a client expects as the answer makes it come sooner where it is right, and changes no token of it."""

import dataclasses
from collections.abc import Sequence

import pytest

from tests.speculator.fakes import Driver, FakePipeline, FakeTarget, job, make_core, opening, text_of
from twd.drafting.prediction import Prediction
from twd.speculator.core.session import NGRAM, PREDICTION
from twd.wire.job import JobFinished, JobStats, Speculation, TokensAccepted

PROMPT = [3, 4, 5, 6]
COUNT = 60
TRUE = text_of(PROMPT, COUNT)
EDITED = [*TRUE[:20], 1000, 1001, *TRUE[23:]]


def played(
    prediction: Sequence[int],
    target: FakeTarget | None = None,
    *,
    ngram: bool = False,
    max_tokens: int = COUNT,
    **fields: object,
) -> tuple[list[int], JobStats]:
    """What is said with this prediction, and what it cost."""
    used = target or FakeTarget()
    driver = Driver(make_core(used, ngram=ngram), used)
    asked = job("j", max_tokens=max_tokens, **fields)
    driver.core.submit(asked, dataclasses.replace(opening("j", PROMPT), prediction=Prediction(prediction)), driver.now)
    driver.run()
    (done,) = [event for event in driver.told if isinstance(event, JobFinished)]
    said = [token for event in driver.told if isinstance(event, TokensAccepted) for token in event.tokens]
    return said, done.stats


def test_the_fake_says_enough() -> None:
    assert len(TRUE) == COUNT


def test_a_true_prediction_is_said_in_few_passes() -> None:
    said, stats = played(TRUE)
    assert said == TRUE
    assert stats.passes < COUNT / 4
    assert (stats.predicted, stats.foretold) == (COUNT, COUNT)
    (share,) = stats.drafters
    assert share.drafter == PREDICTION
    assert share.taken >= COUNT - stats.passes - 1


def test_what_was_foretold_behind_the_end_is_not_taken() -> None:
    stop = f"{TRUE[20]} {TRUE[21]} "
    said, stats = played(TRUE, stop=[stop])
    assert said == TRUE[:22]
    assert stats.taken == stats.completion_tokens - 3 == sum(stats.taken_at), "a token of each pass but the last"
    assert stats.passes == 4
    (share,) = stats.drafters
    assert share.checked == share.taken == stats.taken


@pytest.mark.parametrize("ngram", [False, True])
def test_one_with_a_change_is_followed_on_both_sides_of_it(ngram: bool) -> None:
    said, stats = played(EDITED, ngram=ngram)
    assert said == TRUE
    assert stats.passes < COUNT / 2
    assert COUNT - 3 - 2 <= stats.foretold < COUNT
    assert {share.drafter for share in stats.drafters} <= {PREDICTION, NGRAM}


@pytest.mark.parametrize("prediction", [[], [1000] * 80, list(reversed(TRUE)), TRUE[:5] * 20])
def test_a_false_one_changes_nothing(prediction: list[int]) -> None:
    said, stats = played(prediction)
    assert said == TRUE
    assert stats.predicted == len(prediction)


def test_what_is_said_twice_was_foretold_once() -> None:
    half = TRUE[: COUNT // 2]
    _, stats = played(half, resume=half * 2, attempt=2, max_tokens=COUNT + 1)
    assert (stats.predicted, stats.foretold) == (len(half), len(half))


def test_windows_in_flight_are_filled_from_it() -> None:
    said, stats = played(EDITED, FakePipeline(in_flight=4))
    assert said == TRUE
    assert stats.foretold >= COUNT - 5


def test_a_job_that_is_taken_over_goes_on_in_it() -> None:
    said, stats = played(TRUE, resume=TRUE[:30], attempt=2)
    assert said == TRUE[30:]
    assert stats.passes < 30 / 3
    assert stats.foretold == COUNT


def test_who_wants_no_guesses_gets_none() -> None:
    said, stats = played(TRUE, speculation=Speculation(enabled=False))
    assert said == TRUE
    assert (stats.checked, stats.predicted) == (0, 0)
