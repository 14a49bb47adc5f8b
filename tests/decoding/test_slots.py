"""Choosing slots: longest prefix first, conversations not lost to a shared beginning, everyone served in turn."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twd.decoding.slots import CopyCost, Slots
from twd.wire.failures import FailureCode, TwdError
from twd.wire.prefix import common_prefix

few = st.lists(st.integers(0, 2), max_size=12)
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def remember(slots: Slots, *texts: list[int]) -> None:
    """Fill the slots with finished sessions."""
    for text in texts:
        place = slots.open(text)
        slots[place.slot].tokens = list(text)
    for number in range(len(texts)):
        slots.close(number)


@given(few, few)
def test_common_prefix_is_what_a_loop_finds(one: list[int], other: list[int]) -> None:
    expected = 0
    while expected < min(len(one), len(other)) and one[expected] == other[expected]:
        expected += 1
    assert common_prefix(one, other) == common_prefix(tuple(one), other) == expected


def test_the_same_conversation_finds_its_slot_again() -> None:
    slots = Slots(3)
    remember(slots, [1, 2, 3, 4], [5, 6, 7, 8], [1, 9, 9, 9])
    place = slots.open([5, 6, 7, 8, 10, 11])
    assert (place.slot, place.common) == (1, 4)
    assert slots[1].tokens == [5, 6, 7, 8]


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    slots = Slots(1)
    remember(slots, [1, 2, 3, 4])
    assert slots.choose([1, 2, 3, 4]).common == 3


def test_a_shared_beginning_does_not_cost_a_long_conversation() -> None:
    slots = Slots(2)
    remember(slots, list(range(100)))
    assert slots.open([0, 1, 2, 500]).slot == 1


def test_without_anything_in_common_the_longest_unused_goes() -> None:
    slots = Slots(3)
    remember(slots, [1] * 9, [2] * 9, [3] * 9)
    slots.open([1] * 9 + [4])
    slots.close(0)
    assert slots.choose([7, 7]).slot == 1


def test_a_busy_slot_is_never_taken_and_none_left_is_busy() -> None:
    slots = Slots(2)
    taken = {slots.open([1, 2]).slot, slots.open([1, 2]).slot}
    assert taken == {0, 1}
    with pytest.raises(TwdError) as caught:
        slots.open([1, 2])
    assert caught.value.code is FailureCode.BUSY


def test_a_prefix_in_another_slot_is_copied_where_that_pays() -> None:
    slots = Slots(2, lambda held: 4)
    first = slots.open([1, 2, 3, 4, 5, 6])
    slots[first.slot].tokens = [1, 2, 3, 4, 5, 6]
    place = slots.open([1, 2, 3, 4, 5, 9, 9])
    assert (place.slot, place.common, place.source) == (1, 5, 0)
    slots.close(1)
    assert slots.choose([1, 2, 3, 9]).source is None


def test_of_equal_sources_the_shortest_is_copied_and_a_long_one_must_save_more() -> None:
    slots = Slots(3, lambda held: held // 2)
    for text in ([1, 2, 3, 4, *range(10, 30)], [1, 2, 3, 4, 5, 6]):
        slots[slots.open(text).slot].tokens = list(text)
    assert slots.choose([1, 2, 3, 4, 9]).source == 1
    assert slots.choose([1, 2, 3, 4, *range(10, 20), 9]).source == 0
    assert slots.choose([1, 2, 3, 4, *range(10, 15), 9]).source is None


KV_BYTES = 23_040


def test_a_copy_costs_what_it_moves() -> None:
    here, far, shared = CopyCost(8192, KV_BYTES), CopyCost(8192), CopyCost(0)
    assert here.saves_cells(60)
    assert here.least_saved(60) == 16, "a few tokens are always computed as quickly"
    assert here.least_saved(1900) == 1900 * 4 // 256
    assert not here.saves_cells(2048), "the whole slot is copied as quickly"
    assert here.least_saved(2048) == here.least_saved(8000) == far.least_saved(60) == 8192 // 256
    assert not CopyCost(8192, 10**6).saves_cells(100), "what is saved would be large"
    assert not far.saves_cells(60)
    assert not here.saves_cells(0)
    assert shared.least_saved(8000) == 16


@example(4352, 1, 0)
@given(st.integers(0, 10_000), st.integers(0, 10**6), st.integers(0, 10_000))
def test_copying_more_never_costs_less(cells: int, cell_bytes: int, held: int) -> None:
    cost = CopyCost(cells, cell_bytes)
    assert 16 <= cost.least_saved(held) <= cost.least_saved(held + 1) <= max(16, cells // 256)


def test_what_cannot_be_rolled_back_is_reused_only_whole() -> None:
    slots = Slots(1)
    remember(slots, [1, 2, 3])
    assert slots.choose([1, 2, 4, 5], whole_only=True).common == 0
    assert slots.choose([1, 2, 3, 4], whole_only=True).common == 3


@given(st.lists(st.tuples(prompts, st.booleans(), st.integers(0, 3)), max_size=40), st.integers(1, 4))
def test_slots_hold_a_prefix_of_their_prompt_whatever_happens(
    steps: list[tuple[list[int], bool, int]], count: int
) -> None:
    slots = Slots(count, lambda held: 3)
    for prompt, opens, number in steps:
        busy = {slot for slot in range(count) if slots[slot].busy}
        if opens and len(busy) < count:
            before = {slot: list(slots[slot].tokens) for slot in range(count)}
            place = slots.open(prompt)
            source = place.slot if place.source is None else place.source
            assert place.slot not in busy
            assert place.common < len(prompt)
            assert before[source][: place.common] == prompt[: place.common] == slots[place.slot].tokens
            assert all(slots[slot].tokens == before[slot] for slot in range(count) if slot != place.slot)
            slots[place.slot].tokens = list(prompt)
        elif number < count:
            slots.close(number)
