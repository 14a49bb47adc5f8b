"""When a process counts as hung: never while it lives, is debugged, or nobody looked; soon when it was stopped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.process.hang import (
    AUTO_S,
    FIRST_S,
    LOOKS_AT_ONCE,
    UNHEARD_LOOKS,
    HangPolicy,
    RunState,
    Silence,
    Unheard,
    policy_of,
)

POLICY = HangPolicy(silence_s=10.0, look_s=0.5)


def looks(
    silence: Silence, seconds: float, run: RunState = RunState.RUNS, beats: int | None = 1, start: float = 0.0
) -> str:
    """Look twice a second for so long; the first word of a hang."""
    for look in range(int(seconds / 0.5) + 1):
        if hung := silence.look(start + look * 0.5, run, beats):
            return hung
    return ""


def test_what_the_setting_means() -> None:
    assert policy_of("auto").silence_s == AUTO_S
    assert policy_of(3.0, 0.2) == HangPolicy(3.0, 0.2)
    assert not policy_of(0).watches
    assert policy_of(1).watches


def test_silence_is_waited_for_and_no_longer() -> None:
    assert looks(Silence(POLICY), 10.0) == ""
    assert looks(Silence(POLICY), 11.0) == "it showed no sign of life for 10 s"


def test_the_first_beat_may_take_longer() -> None:
    assert looks(Silence(POLICY), FIRST_S, beats=0) == ""
    assert "no sign of life" in looks(Silence(POLICY), FIRST_S + 1, beats=0)


def test_one_that_shows_no_beats_is_only_ended_when_it_was_stopped() -> None:
    silence = Silence(POLICY)
    assert looks(silence, 10_000.0, beats=None) == ""
    assert silence.look(0.0, RunState.STOPPED, None) == ""
    assert silence.look(0.5, RunState.STOPPED, None) == "it was stopped"


def test_a_stop_that_is_over_at_the_next_look_is_none() -> None:
    silence = Silence(POLICY)
    for turn in range(100):
        assert silence.look(turn, RunState.STOPPED if turn % 2 else RunState.RUNS, turn) == ""


def test_under_a_debugger_nothing_counts() -> None:
    silence = Silence(POLICY)
    assert looks(silence, 1000.0, RunState.TRACED) == ""
    assert looks(silence, 10.0, start=1000.5) == ""


def test_after_each_hang_in_a_row_it_is_given_more_time_up_to_a_bound() -> None:
    assert [POLICY.limit_s(True, hangs) for hangs in (0, 1, 2, 3, 4, 99)] == [10.0, 20.0, 40.0, 80.0, 80.0, 80.0]


@given(st.lists(st.floats(0, 1e6), max_size=100))
def test_a_look_counts_for_little_however_late_it_is(pauses: list[float]) -> None:
    silence, now = Silence(HangPolicy(silence_s=LOOKS_AT_ONCE * 0.5 * 100, look_s=0.5)), 0.0
    for pause in pauses:
        now += pause
        assert silence.look(now, RunState.RUNS, 7) == ""


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(RunState)), max_size=50))
def test_one_that_beats_is_hung_only_if_it_is_stopped(seen: list[tuple[float, RunState]]) -> None:
    silence, now = Silence(POLICY), 0.0
    for number, (pause, run) in enumerate(seen):
        now += pause
        hung = silence.look(now, run, number)
        assert hung in ("", "it was stopped")
        assert not hung or run is RunState.STOPPED


@pytest.mark.parametrize("jump", [0.0, -5.0])
def test_a_clock_that_stands_or_goes_back_counts_nothing(jump: float) -> None:
    silence = Silence(POLICY)
    silence.look(100.0, RunState.RUNS, 1)
    for turn in range(100):
        assert silence.look(100.0 + jump * turn, RunState.RUNS, 1) == ""


def test_one_that_others_hear_no_more_is_hung_and_told_once() -> None:
    unheard = Unheard()
    told = [unheard.look(["edge"], 3) for _ in range(3 * UNHEARD_LOOKS)]
    assert [bool(one) for one in told].count(True) == 1
    assert told[UNHEARD_LOOKS - 1] == ["edge"]


def test_where_nobody_is_heard_or_somebody_is_again_nobody_is_hung() -> None:
    unheard = Unheard()
    for _ in range(100):
        assert unheard.look(["edge", "metrics"], 2) == []
        assert unheard.look(["edge"], 2) == []
    for _ in range(100):
        assert unheard.look(["edge"], 2) in ([], ["edge"])
        assert unheard.look([], 2) == []
