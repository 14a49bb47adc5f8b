"""How many guesses are worth a checkpoint."""

from hypothesis import given
from hypothesis import strategies as st

from twd.drafting.undo_cost import UndoCost
from twd.drafting.window_value import best_cut, held_in_a_row


def cost(rows: int) -> float:
    return 10.0 + rows


def test_without_cost_and_rows_that_are_free_it_is_the_usual_cut() -> None:
    chances = held_in_a_row(0.8, 12)
    free = UndoCost(0.0, 0.0)
    assert free.best_cut(chances, lambda _: 10.0) == best_cut(chances, lambda _: 10.0)[0]


def test_drafts_that_never_pay_for_their_checkpoint_are_not_checked() -> None:
    assert UndoCost(200.0, 50.0).best_cut(held_in_a_row(0.8, 12), cost) == 0
    assert UndoCost(2.0, 1.0).best_cut(held_in_a_row(0.95, 12), cost) > 4


def test_while_tokens_are_computed_again_the_old_checkpoint_serves() -> None:
    dear, chances = UndoCost(25.0, 0.0), held_in_a_row(0.9, 3)
    assert dear.best_cut(chances, lambda _: 10.0) == 0
    assert dear.best_cut(chances, lambda _: 10.0, replay=1) > 0


@given(st.floats(0.0, 500.0), st.floats(0.0, 500.0), st.floats(0.0, 1.0), st.integers(0, 16), st.integers(0, 20))
def test_a_chosen_window_is_expected_to_beat_a_plain_step(
    save: float, load: float, chance: float, drafts: int, replay: int
) -> None:
    undo, chances = UndoCost(save, load), held_in_a_row(chance, drafts)
    cut = undo.best_cut(chances, cost, 0.0, replay)
    expected = 1.0 + sum(chances[:cut])
    extra = undo.extra_ms(chances[cut - 1], expected, cost, replay) if cut else 0.0
    assert expected / (cost(1 + replay + cut) + extra) >= 1.0 / cost(1 + replay) - 1e-12
