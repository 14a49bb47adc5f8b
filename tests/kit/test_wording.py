"""Numbers of things as people say them."""

from twd.kit.wording import count, figure, gist


def test_one_is_one_and_all_others_are_many() -> None:
    assert [count(number, "slice") for number in (0, 1, 2)] == ["0 slices", "1 slice", "2 slices"]
    assert [count(number, "pass", "passes") for number in (1, 3)] == ["1 pass", "3 passes"]


def test_figures_have_three_digits_and_no_exponents() -> None:
    values = (0.0, 0.000563, 0.358, 19.66, 724.4, 999.6, 2792.0, 9620.0, 1234567.0)
    assert [figure(value) for value in values] == [
        *("0", "0", "0.358", "19.7", "724", "1,000", "2,790", "9,620", "1,230,000")
    ]


def test_a_text_is_the_same_with_other_figures() -> None:
    assert gist("reading 4% of 1,024.5 MB") == gist("reading 54% of 7 MB") != gist("writing 4% of 7 MB")
