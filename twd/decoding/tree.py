"""Arranges a draft tree for one pass: the order of its tokens in the batch, and the sequences of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from twd.wire.failures import FailureCode, TwdError


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One token of the tree: its index in the window, its depth (root: 0), and the branches that contain it."""

    index: int
    depth: int
    branches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """The nodes in decode order. The likeliest branch (number 0) comes first, so its KV cells are in the same places
    as without a tree."""

    nodes: tuple[TreeNode, ...]
    branches: int

    @property
    def main(self) -> tuple[int, ...]:
        """The token indices of the likeliest branch, from the root on."""
        return tuple(node.index for node in self.nodes if 0 in node.branches)


def lay_out(parents: Sequence[int], branches_max: int) -> TreeLayout:
    """Make the layout; branches are numbered depth first, first child first. Raises UNSUPPORTED if too many."""
    children: list[list[int]] = [[] for _ in parents]
    depth = [0] * len(parents)
    for index, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(index)
            depth[index] = depth[parent] + 1
    through: list[list[int]] = [[] for _ in parents]
    count = 0
    for leaf in _leaves(children):
        index = leaf
        while index >= 0:
            through[index].append(count)
            index = parents[index]
        count += 1
    if count > branches_max:
        raise TwdError(FailureCode.UNSUPPORTED, f"a tree of {count} branches; this target holds {branches_max}")
    order = sorted(range(len(parents)), key=lambda index: (0 not in through[index], through[index][0], depth[index]))
    return TreeLayout(tuple(TreeNode(i, depth[i], tuple(through[i])) for i in order), count)


def _leaves(children: Sequence[Sequence[int]]) -> list[int]:
    """The leaves of the tree, depth first, first child first."""
    leaves: list[int] = []
    stack = [0]
    while stack:
        index = stack.pop()
        if children[index]:
            stack += reversed(children[index])
        else:
            leaves.append(index)
    return leaves
