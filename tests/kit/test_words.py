"""Numbers of things as people say them."""

from twd.kit.words import count


def test_one_is_one_and_all_others_are_many() -> None:
    assert [count(number, "slice") for number in (0, 1, 2)] == ["0 slices", "1 slice", "2 slices"]
    assert [count(number, "pass", "passes") for number in (1, 3)] == ["1 pass", "3 passes"]
