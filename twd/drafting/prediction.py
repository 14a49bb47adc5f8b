"""Drafts from a text that the client expects as the answer, or most of it: what follows the place that the answer
reached in it."""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Final

from twd.drafting.ngram import MAX_DRAFT, confidence

MIN_MATCH: Final = 2
"""This many tokens must match before the answer counts as back in the expected text."""
_GIVEN: Final = 16
"""The expected text counts as a match of this length until the answer first differs from it."""


class Prediction:
    """The place of an answer in the expected text, and what follows there."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._places: dict[tuple[int, ...], list[int]] = {}
        for end in range(MIN_MATCH, len(self._tokens)):
            self._places.setdefault(tuple(self._tokens[end - MIN_MATCH : end]), []).append(end)
        self._latest: deque[int] = deque(maxlen=MIN_MATCH)
        self._at = 0
        self._match = _GIVEN
        """How many tokens match up to there; 0: the answer left the expected text."""
        self.held = 0
        """How many tokens of the answer were predicted."""

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens of the answer."""
        for token in tokens:
            self._latest.append(token)
            if self._match and self._at < len(self._tokens) and self._tokens[self._at] == token:
                self._at += 1
                self._match += 1
                self.held += 1
            else:
                self._find()

    def _find(self) -> None:
        """Move to where the last tokens stand: the nearest place ahead, or else the first place."""
        places = self._places.get(tuple(self._latest), [])
        ahead = bisect_left(places, self._at)
        self._match = MIN_MATCH if places else 0
        if places:
            self._at = places[ahead] if ahead < len(places) else places[0]

    def propose(self, limit: int = MAX_DRAFT) -> tuple[list[int], float]:
        """Returns the tokens that follow, and their confidence."""
        count = min(limit, MAX_DRAFT) if self._match else 0
        following = self._tokens[self._at : self._at + count] if count > 0 else []
        return (following, confidence(self._match)) if following else ([], 0.0)
