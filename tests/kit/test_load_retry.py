"""Loads that fail are tried again, seldom where a try is dear, and told of once."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.kit import load_retry as tries
from twd.kit.clock import SystemClock
from twd.kit.load_retry import FIRST_S, LONGEST_S, PART, USUAL_MOST_S, load_pause_s, until_loaded
from twd.wire.failures import FailureCode, TwdError


def test_cheap_tries_are_made_twice_a_minute_and_dear_ones_seldom() -> None:
    assert [load_pause_s(failures, 0.0) for failures in range(1, 7)] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert load_pause_s(1, 10.0) == 200.0
    assert load_pause_s(9, 1000.0) == LONGEST_S


@given(st.integers(1, 10_000), st.floats(0, 1e5))
def test_pauses_are_bounded_and_grow(failures: int, took_s: float) -> None:
    pause = load_pause_s(failures, took_s)
    assert FIRST_S <= pause <= load_pause_s(failures + 1, took_s) <= load_pause_s(failures + 1, took_s + 1) <= LONGEST_S
    assert pause >= min(PART * took_s, LONGEST_S)
    assert took_s or pause <= USUAL_MOST_S


async def test_it_goes_on_until_the_load_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "load_pause_s", lambda failures, took_s: 0.0)
    told: list[tuple[str, bool]] = []
    left = ["9.5 GiB are missing", "9.25 GiB are missing", "the file is broken", "no such file", ""]

    async def find() -> Callable[[], str]:
        problem = left.pop(0)
        if problem == "no such file":
            raise TwdError(FailureCode.MODEL_LOAD, problem)

        def load() -> str:
            if problem:
                raise TwdError(FailureCode.MODEL_LOAD, problem)
            return "loaded"

        return load

    result = await until_loaded(find, lambda error, new: told.append((str(error), new)), SystemClock())
    assert result == "loaded"
    assert told == [
        ("9.5 GiB are missing", True),
        ("9.25 GiB are missing", False),
        ("the file is broken", True),
        ("no such file", True),
    ]
