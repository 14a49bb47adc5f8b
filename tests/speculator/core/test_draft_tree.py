"""Drafts find their place by position and hash, whatever order they come in."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from twd.speculator.core.draft_tree import MAX_NODES, DraftNode, DraftTree, lay_out
from twd.wire.prefix import extend, prefix_hash

TEXT = [5, 6, 7]


def believe(drafter: str, confidence: float) -> float:
    return confidence


def tree() -> DraftTree:
    return DraftTree(len(TEXT), prefix_hash(TEXT))


def offer(one: DraftTree, before: list[int], tokens: list[int], drafter: str = "d", sure: float = 0.8) -> int:
    return one.add(drafter, len(before), prefix_hash(before), tokens, [sure] * len(tokens))


def tokens_of(path: Sequence[tuple[DraftNode, float]]) -> list[int]:
    return [node.token for node, _ in path]


@given(st.permutations([(0, 2), (2, 3), (3, 6), (6, 8)]))
def test_chunks_in_any_order_make_one_chain(order: list[tuple[int, int]]) -> None:
    one, whole = tree(), [11, 12, 13, 14, 15, 16, 17, 18]
    for start, end in order:
        offer(one, TEXT + whole[:start], whole[start:end])
    assert tokens_of(one.chain(believe, 20)) == whole


def test_a_foreign_or_stale_draft_finds_no_place() -> None:
    one = tree()
    assert one.add("d", 3, 12345, [1, 2], []) == 0
    assert offer(one, [9, 9, 9], [1]) == 0
    assert len(one) == 0


def test_the_same_draft_twice_changes_nothing() -> None:
    one = tree()
    for _ in range(3):
        offer(one, TEXT, [1, 2, 3])
    assert len(one) == 3


def test_the_chain_follows_the_likeliest_votes() -> None:
    one = tree()
    offer(one, TEXT, [1, 2], "weak", 0.3)
    offer(one, TEXT, [4, 5], "strong", 0.9)
    assert tokens_of(one.chain(believe, 9)) == [4, 5]
    assert one.chain(believe, 9)[1][1] == 0.9 * 0.9


def test_advancing_keeps_the_branch_that_was_right() -> None:
    one = tree()
    offer(one, TEXT, [1, 2, 3])
    offer(one, TEXT, [4, 5])
    assert one.advance(4)
    assert tokens_of(one.chain(believe, 9)) == [5]
    assert not one.advance(8)
    assert len(one) == 0
    assert offer(one, [*TEXT, 4, 8], [9]) == 1


def test_a_draft_that_waits_for_a_token_that_nobody_guessed_has_its_place_when_that_is_told() -> None:
    one = tree()
    offer(one, TEXT, [1, 2, 3])
    offer(one, [*TEXT, 8], [9, 10])
    assert not one.advance(8)
    assert tokens_of(one.chain(believe, 9)) == [9, 10]


def test_a_flood_is_bounded() -> None:
    one = tree()
    for start in range(MAX_NODES):
        offer(one, TEXT, [start + 100, 1, 2, 3])
    assert len(one) <= MAX_NODES + 4


@given(seed=st.integers(0, 10_000), branches=st.integers(1, 4), limit=st.integers(1, 12))
def test_a_laid_out_tree_has_parents_before_children_and_few_branches(seed: int, branches: int, limit: int) -> None:
    dice = random.Random(seed)
    one = tree()
    for _ in range(12):
        offer(one, TEXT, [dice.randrange(3) for _ in range(dice.randint(1, 5))], f"d{dice.randrange(3)}", dice.random())
    chosen = one.likeliest(believe, limit, branches)
    nodes, parents = lay_out([node for node, _ in chosen], one.root)
    assert len(nodes) == len(chosen) <= limit
    for i, (node, parent) in enumerate(zip(nodes, parents, strict=True)):
        assert parent <= i
        assert node.parent is (one.root if parent == 0 else nodes[parent - 1])
    leaves = len(nodes) - len({parent for parent in parents if parent > 0})
    assert leaves <= branches
    chances = [chance for _, chance in chosen]
    assert all(0 <= chance <= 1 for chance in chances)


@given(st.lists(st.integers(0, 200_000), max_size=40), st.integers(0, 40))
def test_a_prefix_hash_can_be_continued(tokens: list[int], cut: int) -> None:
    assert extend(prefix_hash(tokens[:cut]), tokens[cut:]) == prefix_hash(tokens)
