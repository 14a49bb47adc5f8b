"""The drafts of all drafters of one session, as one draft tree behind the accepted text.

Each draft names its start position and the hash of all tokens before it. So a late, repeated, reordered or foreign
draft finds no node to hang on and is dropped, without a handshake.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from twd.wire.prefix import extend

MAX_NODES = 512
MAX_WAITING = 64

Chance = Callable[[str, float], float]
"""drafter, confidence -> chance"""


@dataclass(slots=True, eq=False)
class DraftNode:
    """One drafted token, with the drafters that proposed it and their confidence."""

    token: int
    at: int
    hash: int
    parent: "DraftNode | None"
    votes: dict[str, float] = field(default_factory=dict)
    children: dict[int, "DraftNode"] = field(default_factory=dict)

    def chance(self, believe: Chance) -> float:
        """Returns the chance of the best vote. Votes are not combined, because drafters often fail together."""
        return max(believe(drafter, confidence) for drafter, confidence in self.votes.items())

    def best_vote(self, believe: Chance) -> tuple[str, float]:
        """Returns the drafter whose vote has the highest chance, and its confidence."""
        return max(self.votes.items(), key=lambda vote: believe(*vote))


@dataclass(slots=True)
class _Waiting:
    drafter: str
    at: int
    prefix: int
    tokens: Sequence[int]
    confidence: Sequence[float]


class DraftTree:
    """Drafts beyond the accepted text of one session."""

    def __init__(self, at: int, prefix: int) -> None:
        self._root = DraftNode(token=-1, at=at - 1, hash=prefix, parent=None)
        self._by_hash: dict[int, DraftNode] = {prefix: self._root}
        self._waiting: list[_Waiting] = []
        self.stale = 0

    @property
    def root(self) -> DraftNode:
        """The end of the accepted text."""
        return self._root

    def __len__(self) -> int:
        return len(self._by_hash) - 1

    def add(self, drafter: str, at: int, prefix: int, tokens: Sequence[int], confidence: Sequence[float] = ()) -> int:
        """Hang a draft on the node that its prefix names; returns how many drafted tokens found a place.

        A draft without a known place may have arrived before the draft that it follows, so a few such drafts are kept.
        """
        parent = self._by_hash.get(prefix)
        if parent is None or parent.at != at - 1:
            self._keep_waiting(_Waiting(drafter, at, prefix, tokens, confidence))
            return 0
        placed = self._hang(parent, drafter, tokens, confidence)
        if placed and self._waiting:
            placed += self._retry()
        return placed

    def _hang(self, node: DraftNode, drafter: str, tokens: Sequence[int], confidence: Sequence[float]) -> int:
        placed = 0
        for i, token in enumerate(tokens):
            child = node.children.get(token)
            if child is None:
                if len(self._by_hash) > MAX_NODES:
                    break
                child = DraftNode(token, node.at + 1, extend(node.hash, (token,)), node)
                node.children[token] = child
                self._by_hash[child.hash] = child
            child.votes[drafter] = confidence[i] if i < len(confidence) else 0.7
            node = child
            placed += 1
        return placed

    def _keep_waiting(self, draft: _Waiting) -> None:
        if draft.at <= self._root.at or len(self._waiting) >= MAX_WAITING:
            self.stale += 1
            return
        self._waiting.append(draft)

    def _retry(self) -> int:
        placed = 0
        again, self._waiting = self._waiting, []
        for draft in again:
            placed += self.add(draft.drafter, draft.at, draft.prefix, draft.tokens, draft.confidence)
        return placed

    def advance(self, token: int) -> bool:
        """Move the root to one more accepted token; returns whether some draft had proposed it."""
        child = self._root.children.get(token)
        if child is None:
            self._reset(DraftNode(-1, self._root.at + 1, extend(self._root.hash, (token,)), None))
            self._retry()
            return False
        for sibling in self._root.children.values():
            if sibling is not child:
                self._forget(sibling)
        self._by_hash.pop(self._root.hash, None)
        child.parent = None
        self._root = child
        return True

    def _reset(self, root: DraftNode) -> None:
        self._root = root
        self._by_hash = {root.hash: root}
        self.stale += sum(draft.at <= root.at for draft in self._waiting)
        self._waiting = [draft for draft in self._waiting if draft.at > root.at]

    def _forget(self, node: DraftNode) -> None:
        stack = [node]
        while stack:
            gone = stack.pop()
            self._by_hash.pop(gone.hash, None)
            stack.extend(gone.children.values())

    def chain(self, believe: Chance, limit: int, start: DraftNode | None = None) -> list[tuple[DraftNode, float]]:
        """Returns the likeliest path from `start` (default: the root), each node with the chance that all nodes up to
        it are accepted."""
        path: list[tuple[DraftNode, float]] = []
        node, whole = start or self._root, 1.0
        while node.children and len(path) < limit:
            chance, _, child = max((child.chance(believe), -token, child) for token, child in node.children.items())
            whole *= chance
            path.append((child, whole))
            node = child
        return path

    def likeliest(self, believe: Chance, limit: int, branches: int) -> list[tuple[DraftNode, float]]:
        """Returns the `limit` nodes that are likeliest to be reached, parents before children, in at most `branches`
        branches."""
        heap: list[tuple[float, int, DraftNode]] = []
        order, leaves = 0, 1
        chosen: list[tuple[DraftNode, float]] = []
        parents: set[int] = set()

        def push(node: DraftNode, whole: float) -> None:
            nonlocal order
            for child in node.children.values():
                order += 1
                heapq.heappush(heap, (-whole * child.chance(believe), order, child))

        push(self._root, 1.0)
        while heap and len(chosen) < limit:
            negative, _, node = heapq.heappop(heap)
            if id(node.parent) in parents:  # a sibling went before: this one opens another branch
                if leaves >= branches:
                    continue
                leaves += 1
            parents.add(id(node.parent))
            chosen.append((node, -negative))
            push(node, -negative)
        return chosen

    def path_to(self, node: DraftNode) -> list[int]:
        """Returns the drafted tokens from the accepted text up to this node."""
        path = []
        while node is not self._root and node.parent is not None:
            path.append(node.token)
            node = node.parent
        return path[::-1]

    def depth(self, drafter: str) -> int:
        """Returns how many tokens beyond the accepted text a drafter's drafts reach."""
        return max((node.at - self._root.at for node in self._nodes() if drafter in node.votes), default=0)

    def _nodes(self) -> Iterator[DraftNode]:
        return (node for node in self._by_hash.values() if node is not self._root)


def lay_out(nodes: Sequence[DraftNode], root: DraftNode) -> tuple[list[DraftNode], list[int]]:
    """Order the chosen nodes for a window: the likeliest branch first, each node after its parent.

    Returns the nodes and, for each, its parent's index in the window (0 is the accepted token).
    """
    chosen = {id(node) for node in nodes}
    rank = {id(node): i for i, node in enumerate(nodes)}
    ordered: list[DraftNode] = []
    parents: list[int] = []
    stack = [(child, 0) for child in _ranked(root, chosen, rank)]
    while stack:
        node, parent = stack.pop()
        ordered.append(node)
        parents.append(parent)
        stack.extend((child, len(ordered)) for child in _ranked(node, chosen, rank))
    return ordered, parents


def _ranked(node: DraftNode, chosen: set[int], rank: dict[int, int]) -> list[DraftNode]:
    children = [child for child in node.children.values() if id(child) in chosen]
    return sorted(children, key=lambda child: -rank[id(child)])
