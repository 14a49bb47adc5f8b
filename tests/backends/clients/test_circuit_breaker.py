"""The circuit breaker by example and against a model."""

from hypothesis import given
from hypothesis import strategies as st

from twd.backends.clients.circuit_breaker import BreakerState, CircuitBreaker


def test_it_opens_after_failures_in_a_row_and_tries_one_call_later() -> None:
    breaker = CircuitBreaker(failures=3, cooldown_s=10)
    for _ in range(2):
        assert breaker.enter(0.0)
        assert not breaker.failed(0.0, "down")
    assert breaker.enter(0.0)
    assert breaker.failed(1.0, "down again")
    assert breaker.why == "down again"
    assert not breaker.enter(1.0)
    assert not breaker.enter(10.9)
    assert breaker.state(11.0) is BreakerState.TRYING
    call = breaker.enter(11.0)
    assert call
    assert not breaker.enter(11.0), "one at a time"
    assert breaker.failed(12.0, "still", call)
    assert not breaker.enter(21.9)
    assert breaker.enter(22.0)
    breaker.succeeded()
    assert breaker.state(22.0) is BreakerState.CLOSED
    assert breaker.enter(22.0)
    assert breaker.enter(22.0)


def test_a_success_forgets_failures_and_an_abandoned_try_frees_the_place() -> None:
    breaker = CircuitBreaker(failures=2, cooldown_s=5)
    breaker.failed(0.0, "x")
    breaker.succeeded()
    assert not breaker.failed(0.0, "x")
    assert breaker.failed(0.0, "x")
    call = breaker.enter(5.0)
    assert call
    breaker.abandoned(call)
    assert breaker.enter(5.0)


def outcomes(breaker: CircuitBreaker, told: str) -> list[bool]:
    """Whether each failure (x) among successes (.) opened it."""
    opened: list[bool] = []
    for one in told:
        if one == "x":
            opened.append(breaker.failed(0.0, "x"))
        else:
            breaker.succeeded()
    return opened


def test_one_that_fails_every_second_time_is_left_alone_where_successes_make_up_for_half() -> None:
    assert not any(outcomes(CircuitBreaker(3, 5.0), "x." * 50)), "only failures in a row count"
    assert outcomes(CircuitBreaker(3, 5.0, pardon=0.5), "x." * 5) == [False] * 4 + [True]
    assert not any(outcomes(CircuitBreaker(3, 5.0, pardon=0.5), "x.." * 50))
    assert outcomes(CircuitBreaker(3, 5.0, pardon=0.5), "xx.x.x") == [False, False, False, True]


def test_a_try_that_goes_well_forgets_all_failures() -> None:
    breaker = CircuitBreaker(2, 5.0, pardon=0.5)
    assert outcomes(breaker, "xx") == [False, True]
    assert breaker.enter(5.0)
    breaker.succeeded()
    assert (breaker.state(5.0), breaker.why) == (BreakerState.CLOSED, "")
    assert not breaker.failed(5.0, "x")


def test_an_older_call_that_ends_while_another_tries_lets_no_second_try_through() -> None:
    breaker = CircuitBreaker(failures=1, cooldown_s=5)
    older, other = breaker.enter(0.0), breaker.enter(0.0)
    assert breaker.failed(0.0, "x", other)
    call = breaker.enter(5.0)
    assert call
    breaker.abandoned(older)
    assert not breaker.enter(5.0)
    assert not breaker.failed(6.0, "x", older)
    assert breaker.state(6.0) is BreakerState.TRYING
    breaker.abandoned(call)
    breaker.abandoned(call)
    assert breaker.enter(6.0)


@given(st.integers(1, 4), st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["ok", "bad", "gone"])), max_size=60))
def test_calls_are_never_made_while_it_cools_down(limit: int, calls: list[tuple[float, str]]) -> None:
    breaker, now, in_a_row, opened_at = CircuitBreaker(limit, 5.0), 0.0, 0, None
    for wait, outcome in calls:
        now += wait
        call = breaker.enter(now)
        if call is None:
            assert opened_at is not None
            assert now < opened_at + 5.0
            continue
        assert opened_at is None or now >= opened_at + 5.0
        if outcome == "ok":
            breaker.succeeded()
            in_a_row, opened_at = 0, None
        elif outcome == "bad":
            in_a_row += 1
            opens = opened_at is not None or in_a_row >= limit
            assert breaker.failed(now, "bad", call) == opens
            opened_at = now if opens else None
        else:
            breaker.abandoned(call)
