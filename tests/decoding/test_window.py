"""The walk and the checks, without a model; how a tree lies in a pass."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.decoding.tree import lay_out
from twd.decoding.window import Logits, VerifyResult, Window, check, verify_window
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import TokenLogprob

VOCABULARY = 8
END = 7


class Counting:
    """A model whose next token is the number of tokens so far, modulo 7."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        return len(history) % 7


def judge(window: Window, history: list[int]) -> VerifyResult:
    verdict = VerifyResult(window.slot, window.epoch, window.at)
    verify_window(
        window, verdict, lambda _: np.zeros(VOCABULARY, np.float32), history, Counting(), None, frozenset({END})
    )
    return verdict


def test_a_chain_stands_as_far_as_it_is_right() -> None:
    history = [0, 1, 2]
    verdict = judge(Window(0, 4, 2, (2, 3, 4, 6, 6)), history)
    assert verdict.tokens == [3, 4, 5]
    assert verdict.path == [0, 1, 2]
    assert history == [0, 1, 2, 3, 4]
    assert verdict.epoch == 4


def test_without_drafts_one_token_comes() -> None:
    assert judge(Window(0, 0, 0, (0,)), [0]).tokens == [1]


def test_the_rest_of_a_prompt_is_not_up_for_debate() -> None:
    verdict = judge(Window(0, 0, 0, (9, 9, 9, 3), committed=3), [9, 9, 9])
    assert verdict.tokens == [3, 4]
    assert verdict.path == [0, 1, 2, 3]


def test_a_tree_follows_the_branch_that_is_right() -> None:
    window = Window(0, 0, 0, (0, 5, 1, 2, 2), parents=(-1, 0, 0, 2, 1))
    verdict = judge(window, [0])
    assert verdict.tokens == [1, 2, 3]
    assert verdict.path == [0, 2, 3]


def test_logits_are_looked_at_only_where_the_choice_is_not_known() -> None:
    seen, verdict = list[int](), VerifyResult(0, 0, 0)

    def logits_of(node: int) -> Logits:
        seen.append(node)
        return np.zeros(VOCABULARY, np.float32)

    def choice_of(node: int, history: Sequence[int]) -> int | None:
        assert len(history) == node + 1
        return {0: 1, 2: 3}.get(node)

    window = Window(0, 0, 0, (0, 1, 2, 3))
    verify_window(window, verdict, logits_of, [0], Counting(), None, frozenset({END}), choice_of)
    assert verdict.tokens == [1, 2, 3, 4]
    assert seen == [1, 3]


def test_nothing_follows_an_end_token() -> None:
    class Ending:
        def pick(self, logits: Logits, history: Sequence[int]) -> int:
            return END

    verdict = VerifyResult(0, 0, 0)
    zeros = np.zeros(VOCABULARY, np.float32)
    verify_window(Window(0, 0, 0, (0, END, END)), verdict, lambda _: zeros, [0], Ending(), None, frozenset({END}))
    assert verdict.tokens == [END]


def test_log_probabilities_come_with_every_token() -> None:
    verdict = VerifyResult(0, 0, 0)

    def report(_: Logits, token: int) -> TokenLogprob:
        return TokenLogprob(token=token, text=str(token), logprob=-1.0)

    zeros = np.zeros(VOCABULARY, np.float32)
    verify_window(Window(0, 0, 0, (0, 1)), verdict, lambda _: zeros, [0], Counting(), report, frozenset())
    assert [one.token for one in verdict.logprobs] == verdict.tokens == [1, 2]


@given(st.lists(st.integers(0, 6), max_size=20), st.integers(1, 5))
def test_drafts_never_change_what_is_picked(drafts: list[int], at: int) -> None:
    history = [position % 7 for position in range(at)]
    verdict = judge(Window(0, 0, at - 1, (history[-1], *drafts)), history)
    assert verdict.tokens == [(at + step) % 7 for step in range(len(verdict.tokens))]
    assert len(verdict.tokens) == len(verdict.path)


@pytest.mark.parametrize(
    ("window", "code"),
    [
        (Window(0, 0, 0, ()), FailureCode.INTERNAL),
        (Window(0, 0, 0, (1,), committed=2), FailureCode.INTERNAL),
        (Window(0, 0, 0, (VOCABULARY,)), FailureCode.BAD_REQUEST),
        (Window(0, 0, 0, (-1,)), FailureCode.BAD_REQUEST),
        (Window(0, 0, -1, (1,)), FailureCode.BAD_REQUEST),
        (Window(0, 0, 15, (1, 1)), FailureCode.CONTEXT_OVERFLOW),
        (Window(0, 0, 0, (1, 1, 1), parents=(-1, 0)), FailureCode.INTERNAL),
        (Window(0, 0, 0, (1, 1, 1), parents=(-1, 2, 0)), FailureCode.INTERNAL),
        (Window(0, 0, 0, (1, 1, 1), parents=(-1, 0, -1)), FailureCode.INTERNAL),
        (Window(0, 0, 14, (1, 1, 1), parents=(-1, 0, 1)), FailureCode.CONTEXT_OVERFLOW),
    ],
)
def test_senseless_windows_are_refused(window: Window, code: FailureCode) -> None:
    with pytest.raises(TwdError) as caught:
        check(window, vocabulary=VOCABULARY, ctx_size=16, trees=True)
    assert caught.value.code is code


def test_a_broad_tree_near_the_end_fits_by_its_depth() -> None:
    check(Window(0, 0, 14, (1, 1, 2, 3), parents=(-1, 0, 0, 0)), vocabulary=VOCABULARY, ctx_size=16, trees=True)


def test_trees_are_refused_where_there_are_none() -> None:
    with pytest.raises(TwdError, match="chains only"):
        check(Window(0, 0, 0, (1, 1), parents=(-1, 0)), vocabulary=VOCABULARY, ctx_size=16, trees=False)


def test_the_likeliest_branch_comes_first_and_whole() -> None:
    layout = lay_out((-1, 0, 0, 1, 1, 3), branches_max=4)
    assert layout.main == (0, 1, 3, 5)
    assert [node.index for node in layout.nodes] == [0, 1, 3, 5, 4, 2]
    assert [node.branches for node in layout.nodes] == [(0, 1, 2), (0, 1), (0,), (0,), (1,), (2,)]
    assert layout.branches == 3


def test_too_many_branches_are_refused() -> None:
    with pytest.raises(TwdError) as caught:
        lay_out((-1, 0, 0, 0), branches_max=2)
    assert caught.value.code is FailureCode.UNSUPPORTED


trees = st.lists(st.integers(0, 100), max_size=20).map(
    lambda picks: tuple([-1] + [pick % (index + 1) for index, pick in enumerate(picks)])
)


@given(trees)
def test_every_node_follows_its_parent_and_shares_its_branches(parents: tuple[int, ...]) -> None:
    layout = lay_out(parents, branches_max=len(parents))
    placed = {node.index: node for node in layout.nodes}
    order = [node.index for node in layout.nodes]
    assert sorted(order) == list(range(len(parents)))
    assert order[: len(layout.main)] == list(layout.main)
    for index, parent in enumerate(parents):
        if parent >= 0:
            assert order.index(parent) < order.index(index)
            assert set(placed[index].branches) <= set(placed[parent].branches)
            assert placed[index].depth == placed[parent].depth + 1
