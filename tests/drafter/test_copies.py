"""Several tokens a step, where the text comes again or a grammar demands them."""

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.drafter.cores import ME, core_with, give_slots, only, opened, tokens
from tests.properties import examples
from tests.speculator.fakes import TruePicker
from twd.decoding.window import Window
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules, Guess
from twd.drafting.window_value import Cost
from twd.wire.base import JobId

POEM = list(range(2, 40))


def copying(text: list[int], credit: int = 12, cost: Cost = lambda rows: 5.0, window_max: int = 64) -> DrafterCore:
    core = DrafterCore(ME, slots=2, ctx_size=256, cost=cost, window_max=window_max)
    core.open(opened(text, credit), DraftRules(TruePicker()), False)
    give_slots(core)
    return core


def said_of(window: Window, follows: Callable[[list[int]], int], read: list[int]) -> list[Guess]:
    """What a model that has `read` so much says to a window: what follows, and on as long as the copies agree."""
    read += window.tokens[: window.committed]
    if not window.picks:
        return []
    said = [Guess(follows(read), 0.99)]
    for copy in window.tokens[window.committed :]:
        if copy != said[-1].token:
            break
        read.append(copy)
        said.append(Guess(follows(read), 0.99))
    return said


def next_of_poem(text: list[int]) -> int:
    return text[-1] + 1


def test_a_text_that_comes_again_is_drafted_several_tokens_a_step() -> None:
    core = copying([*POEM, 1, 2, 3, 4, 5])
    steps = 0
    while len(only(core).guesses) < 12:
        for draft, window in core.plan():
            core.computed(draft, window, said_of(window, next_of_poem, []), 5.0)
        steps += 1
    assert tokens(core) == list(range(6, 18))
    assert steps <= 4
    assert core.token_ms < 5.0, "that is its pace"


def test_copies_that_are_wrong_leave_what_was_said_instead_and_are_believed_less() -> None:
    core = copying([*POEM, 1, 2, 3, 4, 5])
    ((draft, window),) = core.plan()
    assert window.tokens[window.committed :] == tuple(range(6, 14))
    core.computed(draft, window, [Guess(6, 0.9), Guess(7, 0.9), Guess(49, 0.9)], 5.0)
    assert tokens(core) == [6, 7, 49]
    assert draft.kept == [*POEM, 1, 2, 3, 4, 5, 6, 7], "the third copy does not count as read"
    assert draft.fed == len(draft.kept)
    cheap = copying([*POEM, 1, 2, 3, 4, 5], cost=lambda rows: 10.0 + rows)
    ((_, window),) = cheap.plan()
    first = len(window.tokens) - window.committed
    for _ in range(40):
        cheap._record.learn(only(cheap).copied_sure, False)
    ((_, window),) = cheap.plan()
    assert len(window.tokens) - window.committed < first


def test_copies_that_cost_too_much_are_not_tried() -> None:
    core = copying([*POEM, 1, 2, 3, 4, 5], cost=lambda rows: 5.0 * rows)
    ((draft, window),) = core.plan()
    core.computed(draft, window, said_of(window, next_of_poem, []), 5.0)
    ((_, window),) = core.plan()
    assert len(window.tokens) == window.committed


@pytest.mark.parametrize(("credit", "window_max", "most"), [(1, 64, 0), (3, 64, 2), (12, 45, 2)])
def test_copies_stay_within_what_is_wanted_and_what_a_pass_takes(credit: int, window_max: int, most: int) -> None:
    core = copying([*POEM, 1, 2, 3, 4, 5], credit=credit, window_max=window_max)
    ((_, window),) = core.plan()
    assert len(window.tokens) - window.committed == most


def test_branches_are_drafted_token_by_token() -> None:
    core = copying([*POEM, 1, 2, 3], credit=1)
    ((draft, window),) = core.plan()
    core.computed(draft, window, [Guess(9, 0.5, 4, 0.4)], 5.0)
    ((draft, window),) = core.plan()
    assert draft.on_branch is not None
    assert window.tokens[-1] == 4
    assert window.committed == len(window.tokens)


@examples(100)
@given(seed=st.integers(0, 2**32))
def test_copies_change_the_pace_and_not_the_guesses(seed: int) -> None:
    rng = random.Random(seed)
    text = [rng.randrange(2, 6) for _ in range(rng.randint(4, 60))]

    def follows(read: list[int]) -> int:
        return 2 + (sum(read[-3:]) + len(read) // 40) % 4

    one, many = core_with(list(text), credit=12), copying(list(text))
    fed: dict[int, list[int]] = {id(one): [], id(many): []}
    for core in (one, many):
        while len(only(core).guesses) < 12:
            for draft, window in core.plan():
                held = fed[id(core)]
                assert window.at <= len(held)
                del held[window.at :]
                before = len(held)
                said = said_of(window, follows, held)
                assert len(held) > before
                core.computed(draft, window, said, 5.0)
                assert draft.kept == held
    assert tokens(many)[:12] == tokens(one)[:12]


class Knows:
    """Sees what follows, three tokens far."""

    def __init__(self) -> None:
        self.text: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        self.text += tokens

    def propose(self, limit: int, beyond: Sequence[int] = ()) -> tuple[list[int], list[float]]:
        last = [*self.text, *beyond][-1:] or [99]
        found = [last[0] + step for step in (1, 2, 3)][:limit]
        return found, [0.95] * len(found)


def test_what_a_grammar_demands_is_drafted_several_tokens_a_step() -> None:
    core = DrafterCore(ME, slots=2, ctx_size=256, cost=lambda rows: 5.0, window_max=64)
    event, ahead = replace(opened([7, 8, 9, 20, 21], credit=12), prompt_tokens=3), Knows()
    core.open(event, DraftRules(TruePicker(), ahead), False)
    give_slots(core)
    read: list[int] = []
    widths = []
    while steps := core.plan():
        ((draft, window),) = steps
        widths.append(len(window.tokens) - window.committed)
        core.computed(draft, window, said_of(window, next_of_poem, read), 5.0)
    assert tokens(core) == list(range(22, 34))
    assert widths == [3, 3, 3]
    assert ahead.text == [20, 21], "it follows what comes behind the prompt"
    core.accept(JobId("j-s"), 5, [22, 23])
    core.plan()
    assert ahead.text == [20, 21, 22, 23]
