"""From tokens to the text that may be shown: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopHit:
    """Which stop string ended the text, and the index of the fed token that completed it."""

    stop: str
    index: int


class Detokenizer:
    """Turns accepted tokens into text, however the tokens are chunked.

    The first stop string to be completed ends the text; of several completed by one character, the longest.
    A token whose piece is empty, as control tokens' are, adds no text but counts for `StopHit.index`.
    """

    def __init__(self, piece: Callable[[int], bytes], stops: Iterable[str] = ()) -> None:
        self._piece = piece
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._finder = _StopFinder(stops := tuple(filter(None, stops)))
        self.stops = bool(stops)
        """Whether there are stop strings."""
        self._held = ""
        self._fed = 0
        self.hit: StopHit | None = None

    @property
    def held(self) -> str:
        """Text that waits because it may be the start of a stop string."""
        return self._held

    def feed(self, tokens: Iterable[int]) -> str:
        """Take accepted tokens; returns the text that may be shown now. After a hit there is no more."""
        shown: list[str] = []
        for token in tokens:
            if self.hit is not None:
                break
            text = self._decode(self._piece(token))
            self._fed += 1
            if text:
                shown.append(self._pass(text))
        return "".join(shown)

    def finish(self) -> str:
        """No more tokens will come; returns what was held back."""
        if self.hit is not None:
            return ""
        shown = self._pass(self._decode(b"", True))
        rest, self._held = self._held, ""
        return shown if self.hit is not None else shown + rest

    def _pass(self, text: str) -> str:
        end, stop = self._finder.scan(text)
        whole = self._held + text
        if stop is not None:
            self.hit = StopHit(stop, self._fed - 1)
            shown = whole[: len(self._held) + end - len(stop)]
            self._held = ""
            return shown
        border = len(whole) - self._finder.matching
        self._held = whole[border:]
        return whole[:border]


class _Node:
    """A prefix of at least one stop string (Aho-Corasick: one look per character, whatever the stops)."""

    __slots__ = ("depth", "ends", "fallback", "next")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.next: dict[str, _Node] = {}
        self.fallback: _Node | None = None
        self.ends: str | None = None


class _StopFinder:
    def __init__(self, stops: Iterable[str]) -> None:
        self._root = self._at = _Node(0)
        for stop in stops:
            if stop:
                self._add(stop)
        self._link()

    @property
    def matching(self) -> int:
        """How many of the last characters may be the start of a stop string."""
        return self._at.depth

    def scan(self, text: str) -> tuple[int, str | None]:
        """How many characters were looked at, and the stop string that the last of them completed, if any."""
        if not self._root.next:
            return len(text), None
        for index, character in enumerate(text):
            self._at = self._step(self._at, character)
            if self._at.ends is not None:
                return index + 1, self._at.ends
        return len(text), None

    def _step(self, node: _Node, character: str) -> _Node:
        at: _Node | None = node
        while at is not None:
            found = at.next.get(character)
            if found is not None:
                return found
            at = at.fallback
        return self._root

    def _add(self, stop: str) -> None:
        node = self._root
        for character in stop:
            node = node.next.setdefault(character, _Node(node.depth + 1))
        node.ends = stop

    def _link(self) -> None:
        level = list(self._root.next.values())
        for node in level:
            node.fallback = self._root
        while level:
            below: list[_Node] = []
            for node in level:
                for character, child in node.next.items():
                    child.fallback = self._step(node.fallback or self._root, character)
                    child.ends = child.ends or child.fallback.ends
                    below.append(child)
            level = below
