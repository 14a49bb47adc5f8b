"""A drafter without a model: it proposes what followed the last tokens earlier in this text."""

from collections.abc import Sequence

MAX_DRAFT = 24
MIN_MATCH = 3
"""This many tokens must match before what followed them is proposed."""
_PLACES = 8
_MAX_MATCH = 32


class NgramIndex:
    """Finds the longest earlier match of the end of the text, in microseconds, and proposes what followed it."""

    def __init__(self, min_match: int = MIN_MATCH) -> None:
        self._min_match = min_match
        self._tokens: list[int] = []
        self._places: dict[tuple[int, ...], list[int]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens of the text."""
        key = self._min_match
        for token in tokens:
            self._tokens.append(token)
            end = len(self._tokens)
            if end > key:
                places = self._places.setdefault(tuple(self._tokens[end - 1 - key : end - 1]), [])
                places.append(end - 1)
                if len(places) > _PLACES:
                    del places[0]

    def propose(self, limit: int = MAX_DRAFT, beyond: Sequence[int] = ()) -> tuple[list[int], float]:
        """Returns the tokens that followed the longest match, at most twice its length, and the confidence.

        `beyond`: tokens that may follow the text; the proposal follows them.
        """
        end = (*self._tokens[-_MAX_MATCH:], *beyond)
        if len(end) < self._min_match or limit <= 0:
            return [], 0.0
        best, best_place = 0, 0
        for place in reversed(self._places.get(end[-self._min_match :], ())):
            length = self._match(place, end)
            if length > best:
                best, best_place = length, place
        if not best:
            return [], 0.0
        count = min(limit, MAX_DRAFT, 2 * best)
        return self._copy(best_place, count, beyond), confidence(best)

    def _match(self, place: int, end: Sequence[int]) -> int:
        tokens, most = self._tokens, min(_MAX_MATCH, len(end), place)
        length = self._min_match
        while length < most and tokens[place - 1 - length] == end[-1 - length]:
            length += 1
        return length

    def _copy(self, place: int, count: int, beyond: Sequence[int]) -> list[int]:
        """Returns the tokens behind a match. If they reach the end of the text, they are repeated from the match
        on."""
        following = [*self._tokens[place : place + count], *beyond][:count]
        period = len(following)
        return [following[i % period] for i in range(count)]


def confidence(match: int) -> float:
    """Returns a first estimate of the confidence of a match of this length; the calibration replaces it soon."""
    return 1.0 - 1.0 / (1.0 + 0.45 * (match - 1))
