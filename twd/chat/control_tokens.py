"""Prevents that user text becomes a control token, whatever a template does with it.

Before rendering, each character of user text that occurs in some control string is replaced by a private stand-in of
the same length; the template's own text keeps its characters. So the rendered text shows which control strings come
from the template. Those with a user's character are cut apart before tokenizing; nothing else is changed.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

_FIRST_STAND_IN = 0x10F000
_MAX_STAND_INS = 0xFFE
_UNKNOWN = "\ufffd"


class Span(NamedTuple):
    """The place of a control string in a text."""

    start: int
    end: int


class ControlStrings:
    """The texts of a vocabulary's control tokens."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings = frozenset(string for string in strings if string)
        self._lengths: dict[str, list[int]] = {}
        for first, length in sorted({(string[0], len(string)) for string in self._strings}):
            self._lengths.setdefault(first, []).append(length)
        self._first = re.compile("|".join(map(re.escape, self._lengths)) or r"(?!)")
        alphabet = sorted(set("".join(self._strings)))[:_MAX_STAND_INS]
        stand_ins = [chr(_FIRST_STAND_IN + index) for index in range(len(alphabet))]
        self._stand_in = re.compile(f"[{''.join(stand_ins)}]" if stand_ins else r"(?!)")
        self._show = str.maketrans(dict(zip(stand_ins, alphabet, strict=True)))
        self._hide = str.maketrans(dict(zip(alphabet, stand_ins, strict=True)))

    def harmless(self, words: Iterable[str]) -> frozenset[str]:
        """Return the words that cannot be part of a control string, whatever text is beside them."""
        insides = "\0".join(self._strings)
        starts = {string[:length] for string in self._strings for length in range(1, len(string) + 1)}
        ends = {string[-length:] for string in self._strings for length in range(1, len(string) + 1)}

        def joins_in(word: str) -> bool:
            lengths = range(1, len(word) + 1)
            return word in insides or any(word[-length:] in starts or word[:length] in ends for length in lengths)

        return frozenset(word for word in words if not (self.find(word) or joins_in(word)))

    def find(self, text: str) -> list[Span]:
        """Return all places of control strings, overlapping ones included."""
        return [
            Span(start, start + length)
            for start in (match.start() for match in self._first.finditer(text))
            for length in self._lengths[text[start]]
            if text[start : start + length] in self._strings
        ]

    def hide(self, text: str) -> str:
        """Return user text with a stand-in for each character of control strings."""
        return self._clean(text).translate(self._hide)

    def hide_whole_strings(self, text: str) -> str:
        """Return user text with stand-ins only where it contains a control string."""
        clean = self._clean(text)
        spans = self.find(clean)
        if not spans:
            return clean
        characters = list(clean)
        for start, end in spans:
            characters[start:end] = clean[start:end].translate(self._hide)
        return "".join(characters)

    def _clean(self, text: str) -> str:
        return text if text.isascii() else self._stand_in.sub(_UNKNOWN, text)

    def show(self, text: str) -> str:
        """Return the text with its own characters instead of stand-ins."""
        return text.translate(self._show) if self._stand_in.search(text) else text

    def own_strings(self, rendered: str) -> list[str]:
        """Return the control strings that the template itself wrote, in order."""
        return [rendered[start:end] for start, end in self.find(rendered)]

    def pieces(self, rendered: str) -> list[str]:
        """The rendered text, cut so that no piece holds a control string with a user's character in it.

        Tokenized one by one with special tokens parsed, the pieces yield the template's control tokens and no others.
        A control string of a single character cannot be cut; where a user wrote it, it becomes U+FFFD.
        """
        text = self.show(rendered)
        if text == rendered:
            return [text] if text else []
        formed = set(self.find(text)) - set(self.find(rendered))
        cuts = {self._cut(span, text, rendered) for span in formed if span.end - span.start > 1}
        characters = list(text)
        for start, end in formed:
            if end - start == 1:
                characters[start] = _UNKNOWN
        return ["".join(characters[start:end]) for start, end in pairwise(sorted({0, *cuts, len(text)}))]

    def _cut(self, span: Span, text: str, rendered: str) -> int:
        """Beside the first of the user's characters, so that no string of the template's own is cut."""
        users_first = next(index for index in range(*span) if rendered[index] != text[index])
        return max(users_first, span.start + 1)
