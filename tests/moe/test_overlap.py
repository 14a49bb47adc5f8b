"""Computing and reading experts at the same time."""

from hypothesis import given
from hypothesis import strategies as st

from twd.moe.overlap import overlapped

TIMES = st.floats(0, 1e6, allow_nan=False)


@given(TIMES, TIMES)
def test_it_takes_no_less_than_the_longer_and_no_more_than_both(computing: float, reading: float) -> None:
    both = overlapped(computing, reading)
    assert max(computing, reading) <= both <= (computing + reading) * (1 + 1e-9)


def test_what_hardly_reads_waits_for_it_and_what_mostly_reads_hides_computing() -> None:
    assert overlapped(10.0, 0.0) == 10.0
    assert overlapped(0.0, 10.0) == 10.0
    assert overlapped(100.0, 1.0) > 100.98
    assert overlapped(1.0, 100.0) < 100.02
    assert overlapped(10.0, 10.0) == 15.0
