"""Work that stands still is found; work that moves, or is only slow, is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.process.compute import ProcessEffort
from twd.process.standstill import LONGER_THAN_USUAL, STILL_S, Standstill, hung_work


def hung_after(watch: Standstill, seconds: int, cpu_s: float = 0.0, faults: int = 0, start: int = 0) -> int | None:
    """Look once a second at one piece of work, which uses so much a second; when it counted as hung."""
    for now in range(start, start + seconds + 1):
        if watch.look("work", float(now), ProcessEffort(now * cpu_s, now * faults)):
            return now - start
    return None


def test_what_does_nothing_is_hung_a_little_later() -> None:
    assert hung_after(Standstill(), 100) == STILL_S + 1


@pytest.mark.parametrize(("cpu_s", "faults"), [(0.1, 0), (0.0, 1)])
def test_what_computes_or_reads_from_the_disk_is_not(cpu_s: float, faults: int) -> None:
    assert hung_after(Standstill(), 10_000, cpu_s, faults) is None


def test_where_such_work_took_long_before_more_time_is_given() -> None:
    watch = Standstill()
    assert hung_after(watch, 100, cpu_s=0.5) is None
    assert not watch.look(None, 101.0, ProcessEffort())
    assert hung_after(watch, 1000, start=102) == LONGER_THAN_USUAL * 100 + 1


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 3)), max_size=100))
def test_work_that_ends_in_time_is_never_hung_whatever_the_clock_does(looks: list[tuple[float, int]]) -> None:
    watch, now = Standstill(), 0.0
    for number, (pause, kind) in enumerate(looks):
        now += pause
        assert not watch.look(number if kind else None, now, ProcessEffort())


def test_the_words_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Standstill()
    monkeypatch.setattr("twd.process.standstill.effort", ProcessEffort)
    errors = [hung_work(watch, "work", float(now)) for now in range(20)]
    assert errors[0] is None
    assert "it hangs" in str(errors[-1])
