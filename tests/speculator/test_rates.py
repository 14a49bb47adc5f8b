"""Drafter or none: the outcome decides, and plain steps are tried as often as it is open."""

import pytest

from twd.speculator.rates import CLEAR, MARGIN, SAMPLE_EVERY, SAMPLE_STEPS, SELDOM, Race

PLAIN_MS = 20.0


def raced(lead: float) -> Race:
    """A race in which cycles with the drafter are so much quicker a token; its first plain steps are over."""
    race = Race()
    while race.wants_plain():
        race.add(False, 1, PLAIN_MS)
    for _ in range(10):
        race.add(True, 2, 2 * PLAIN_MS / lead)
    return race


def drafted_before_plain(race: Race, lead: float) -> int:
    """How many tokens come with the drafter until plain steps are wanted."""
    tokens = 20
    while not race.wants_plain():
        race.add(True, 2, 2 * PLAIN_MS / lead)
        tokens += 2
    return tokens


def test_it_begins_with_plain_steps_to_have_something_to_compare_with() -> None:
    race, steps = Race(), 0
    while race.wants_plain():
        race.add(False, 1, PLAIN_MS)
        steps += 1
    assert steps == SAMPLE_STEPS + 1


@pytest.mark.parametrize(("lead", "lost"), [(0.5, True), (MARGIN - 0.02, True), (MARGIN + 0.01, False), (2.0, False)])
def test_a_drafter_that_makes_the_text_slower_has_lost(lead: float, lost: bool) -> None:
    assert raced(lead).lost is lost


def test_nothing_is_lost_before_both_are_known() -> None:
    race = Race()
    race.add(True, 1, 1000.0)
    assert not race.lost
    race = raced(0.5)
    race.try_again()
    assert not race.lost, "some cycles must show it anew"


def test_where_the_drafter_is_clearly_ahead_plain_steps_are_seldom() -> None:
    near, far = CLEAR - 0.05, CLEAR + 0.05
    assert SAMPLE_EVERY <= drafted_before_plain(raced(near), near) <= SAMPLE_EVERY + 2
    assert SELDOM * SAMPLE_EVERY <= drafted_before_plain(raced(far), far) <= SELDOM * SAMPLE_EVERY + 2
