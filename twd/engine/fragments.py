"""Caches the tokens of prompt parts between control tokens, because chats send the same turns again and again."""

import re
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

KEPT_CHARACTERS: Final = 1 << 20
_LONGEST_KEPT: Final = KEPT_CHARACTERS // 8


def lone_strings(strings: Collection[str]) -> set[str]:
    """The control strings that can never overlap another one (or a copy of themselves) in a text.

    A cut next to such a string never cuts another one, so the parts give the same tokens as the whole text.
    """
    written = set(strings) - {""}
    beginnings = {string[:length] for string in written for length in range(1, len(string))}
    ends = {string[-length:] for string in written for length in range(1, len(string))}
    lengths = sorted({len(string) for string in written})
    crowded: set[str] = set()
    for string in written:
        inner = {part for part in _parts(string, lengths) if part in written}
        crowded |= inner
        if inner or any(string[:length] in ends or string[-length:] in beginnings for length in range(1, len(string))):
            crowded.add(string)
    return written - crowded


def _parts(string: str, lengths: Sequence[int]) -> Iterator[str]:
    for length in lengths[: bisect_left(lengths, len(string))]:
        for start in range(len(string) - length + 1):
            yield string[start : start + length]


class Fragments:
    """Tokenizes new parts of texts, and takes known parts from a cache. The longest unused parts are dropped."""

    def __init__(self, separators: Mapping[str, int], tokenize: Callable[[str], list[int]]) -> None:
        self._separators = separators
        self._tokenize = tokenize
        longest_first = sorted(separators, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if separators else None
        self._known: OrderedDict[str, list[int]] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text in which control strings become control tokens."""
        parts = self._cut.split(text) if self._cut is not None else [text]
        tokens: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                tokens.append(self._separators[part])
            elif part:
                tokens += self._part(part)
        return tokens

    def _part(self, part: str) -> list[int]:
        with self._lock:
            known = self._known.get(part)
            if known is not None:
                self._known.move_to_end(part)
                return known
        tokens = self._tokenize(part)
        if len(part) <= _LONGEST_KEPT:
            self._keep(part, tokens)
        return tokens

    def _keep(self, part: str, tokens: list[int]) -> None:
        with self._lock:
            if part not in self._known:
                self._kept += len(part)
            self._known[part] = tokens
            while self._kept > KEPT_CHARACTERS:
                self._kept -= len(self._known.popitem(last=False)[0])
