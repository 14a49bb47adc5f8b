"""Drafters or none: the outcome decides, and plain steps are tried as often as it is open."""

from itertools import pairwise

import pytest

from twd.speculator.core.ab_test import (
    CLEAR,
    GREAT,
    MARGIN,
    PAUSE,
    PAUSE_MAX,
    SAMPLE_EVERY,
    SAMPLE_LEAST,
    SAMPLE_STEPS,
    SELDOM,
    SpeculationABTest,
)

PLAIN_MS = 20.0


def draft(race: SpeculationABTest, lead: float, cycles: int) -> None:
    """So many cycles of two tokens each, with drafters that are so much quicker a token."""
    for _ in range(cycles):
        race.add(True, 2, 2 * PLAIN_MS / lead)


def sample(race: SpeculationABTest) -> int:
    """Plain steps until no more are wanted; returns how many there were."""
    steps = 0
    while race.wants_plain():
        race.add(False, 1, PLAIN_MS)
        steps += 1
    return steps


def raced(lead: float, cycles: int = 200) -> SpeculationABTest:
    """A race after so many cycles of such drafters, and a few plain steps before the last of them."""
    race = SpeculationABTest()
    draft(race, lead, cycles - 1)
    race._since, race._left = 0, SAMPLE_STEPS
    for _ in range(SAMPLE_STEPS):
        race.add(False, 1, PLAIN_MS)
    draft(race, lead, 1)
    return race


def drafted_before_plain(race: SpeculationABTest, lead: float, restart_ms: float = 0.0) -> int:
    """How many tokens come with the drafters until plain steps are wanted."""
    tokens = 2
    while not race.wants_plain(restart_ms):
        race.add(True, 2, 2 * PLAIN_MS / lead)
        tokens += 2
    return tokens


def test_soon_after_the_start_there_are_plain_steps_to_compare_with() -> None:
    race = SpeculationABTest()
    assert not race.wants_plain()
    draft(race, 1.1, 20)
    assert sample(race) == SAMPLE_STEPS


@pytest.mark.parametrize(("cycle_ms", "tokens"), [(60.0, 1), (40.0, 1), (25.0, 1), (110.0, 2)])
def test_who_only_takes_the_targets_time_rests_within_a_second(cycle_ms: float, tokens: int) -> None:
    """Plain steps are a third quicker a token, as where a drafter is nearly as slow as its target."""
    race, spent_ms = SpeculationABTest(), 0.0
    while not race.lost and spent_ms < 5000:
        plain = race.wants_plain()
        ms = cycle_ms / tokens * 0.7 if plain else cycle_ms
        race.add(not plain, 1 if plain else tokens, ms)
        spent_ms += ms
    assert race.lost
    assert spent_ms < 1000


def test_a_great_lead_shows_in_fewer_plain_steps() -> None:
    race = SpeculationABTest()
    draft(race, GREAT + 0.2, 20)
    assert sample(race) == SAMPLE_LEAST


@pytest.mark.parametrize(("lead", "lost"), [(0.5, True), (MARGIN - 0.02, True), (MARGIN + 0.01, False), (2.0, False)])
def test_drafters_that_make_the_text_slower_have_lost(lead: float, lost: bool) -> None:
    assert raced(lead).lost is lost


@pytest.mark.parametrize(("lead", "cycles"), [(0.4, 5), (0.74, 10), (0.9, 26)])
def test_the_worse_they_are_the_sooner_it_shows(lead: float, cycles: int) -> None:
    assert not raced(lead, cycles - 2).lost, "so few cycles can be bad luck"
    assert raced(lead, cycles).lost


def test_a_lucky_plain_step_is_soon_put_right() -> None:
    race = SpeculationABTest()
    draft(race, 1.4, 100)
    race.wants_plain()
    race.add(False, 9, PLAIN_MS)
    assert race.lost, "nine tokens in one step would be hard to beat"
    assert sample(race) < 20
    assert not race.lost


def test_nothing_is_lost_before_both_are_known() -> None:
    race = SpeculationABTest()
    race.add(True, 1, 1000.0)
    assert not race.lost
    race = raced(0.5)
    race.try_again()
    assert not race.lost, "some cycles must show it anew"


@pytest.mark.parametrize("lead", [CLEAR - 0.05, CLEAR + 0.05, GREAT + 0.1])
def test_the_clearer_the_lead_the_more_seldom_are_plain_steps(lead: float) -> None:
    tokens = SAMPLE_EVERY * next((times for least, times in SELDOM.items() if lead > least), 1)
    assert tokens <= drafted_before_plain(raced(lead), lead) <= tokens + 2


def test_where_drafters_are_far_plain_steps_are_seldom() -> None:
    restart_ms = 50.0
    tokens = drafted_before_plain(raced(1.1), 1.1, restart_ms)
    assert tokens * PLAIN_MS / 1.1 >= 90 * restart_ms


def test_who_lost_rests_and_is_tried_again_ever_more_rarely() -> None:
    race, pauses = raced(0.5), []
    for _ in range(8):
        pauses.append(sample(race))
        draft(race, 0.5, 10)
    assert pauses[0] == PAUSE, "the first time it is tried again soon"
    assert all(later >= min(PAUSE_MAX, 2 * earlier) for earlier, later in pairwise(pauses))
    assert pauses[-1] == PAUSE_MAX


@pytest.mark.parametrize("lead", [0.3, 0.5, 0.8, 0.9])
def test_tries_of_who_loses_cost_a_bounded_share_of_the_time(lead: float) -> None:
    race = raced(lead)
    sample(race)
    tried = rested = 0
    for _ in range(6):
        while not race.wants_plain():
            race.add(True, 1, PLAIN_MS / lead)
            tried += 1
        rested += sample(race)
    assert tried * (1 / lead - 1) <= 0.05 * rested


def test_who_wins_again_is_no_longer_under_suspicion() -> None:
    race = raced(0.5)
    sample(race)
    draft(race, 1.5, 40)
    sample(race)
    draft(race, 0.1, 60)
    assert race.lost
    assert sample(race) == PAUSE


def test_a_device_that_needs_some_steps_alike_is_not_taken_for_slow() -> None:
    """As on a GPU: windows bring 0.34 tokens a ms, single steps 0.31 at first, and 0.45 from the third on."""
    race = SpeculationABTest()
    for _ in range(400):
        if not race.wants_plain():
            race.add(True, 3, 8.9)
        else:
            steps = [3.2, 3.2, 2.2, 2.2, 2.2, 2.2, 2.2, 2.2]
            for ms in steps:
                race.add(False, 1, ms)
                if not race.wants_plain():
                    break
        if race.lost:
            break
    assert race.lost
    assert race.plain.value == pytest.approx(1 / 2.2, rel=0.05)


def test_plain_steps_alike_are_as_few_as_before() -> None:
    race = SpeculationABTest()
    for _ in range(12):
        race.add(True, 3, 9.0)
    assert race.wants_plain()
    taken = 0
    while race.wants_plain() and taken < 20:
        race.add(False, 1, 3.0 if taken % 2 else 3.3)
        taken += 1
    assert taken <= SAMPLE_STEPS
