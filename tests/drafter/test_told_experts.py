"""A drafter that is a mixture tells what it chose, to those who asked, within bounds."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.drafter.cores import ME, give_slots, only, opened, step, tokens
from tests.properties import examples
from tests.speculator.fakes import TruePicker
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules, Guess
from twd.drafter.told_experts import told_choices
from twd.wire.codec import decode, encode
from twd.wire.draft import EXPERT_NUMBERS_MAX, EXPERT_TOKENS_MAX

PROMPT = [5, 6, 7]


def chosen(token: int) -> list[int]:
    """Two experts in each of two layers."""
    return [token, token + 1, token + 2, token + 3]


def drafting(wants: bool, knows: bool = True) -> DrafterCore:
    core = DrafterCore(ME, slots=2, ctx_size=256)
    core.chosen = chosen if knows else None
    core.open(replace(opened(PROMPT), wants_experts=wants), DraftRules(TruePicker()), beside=True)
    give_slots(core)
    return core


def test_each_guess_comes_with_what_was_chosen_to_make_it() -> None:
    core = drafting(wants=True)
    while not only(core).resting:
        assert all(window.steps == 1 for _, window in core.plan())
        step(core)
    (message,) = core.proposals()
    assert message.tokens == tokens(core)
    assert message.experts == [chosen(token) for token in (PROMPT[-1], *message.tokens[:-1])]
    assert decode(encode(message)) == message


def test_a_branch_goes_with_its_own_choices() -> None:
    core = drafting(wants=True)
    draft = only(core)
    draft.beside = False
    while not draft.branches or draft.on_branch is not None:
        for one, window in core.plan():
            core.computed(one, window, [Guess(9, 0.6, 11, 0.3)], 5.0)
    (branch,) = [message for message in core.proposals() if message.tokens[0] == 11]
    before = PROMPT[-1] if branch.at == len(PROMPT) else 9
    assert branch.experts == [chosen(token) for token in (before, *branch.tokens[:-1])]


def test_nothing_is_told_to_those_who_did_not_ask_or_by_models_that_are_no_mixture() -> None:
    for core in (drafting(wants=False), drafting(wants=True, knows=False)):
        while not only(core).resting:
            step(core)
        (message,) = core.proposals()
        assert message.tokens
        assert message.experts == []


@given(st.lists(st.integers(0, 3000), max_size=60), st.integers(0, 3000))
@examples(60)
def test_a_message_is_bounded_and_its_choices_stand_at_their_tokens(read: list[int], most: int) -> None:
    def choice(token: int) -> Sequence[int]:
        return range(token) if token <= most else ()

    told = told_choices(choice, read)
    assert len(told) <= EXPERT_TOKENS_MAX
    assert sum(map(len, told)) <= EXPERT_NUMBERS_MAX
    assert not told or told[-1]
    assert all(one in ([], list(choice(token))) for one, token in zip(told, read, strict=False))
