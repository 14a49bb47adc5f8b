"""Drafts from recent answers: what followed in them after the same tokens as at the end of the new answer."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from twd.drafting.ngram import MAX_DRAFT, confidence

MIN_MATCH: Final = 5
"""This many tokens must match. It is more than in the same text, because other answers tell less about this one."""
MAX_MATCH: Final = 32
_PLACES: Final = 4
_Place = tuple[int, int]
"""The number of an answer, and the position in it where the match ends."""


class HistoryNgram:
    """The latest answers of one model, at most `tokens_max` tokens; 0: none."""

    def __init__(self, tokens_max: int) -> None:
        self._tokens_max = tokens_max
        self._answers: OrderedDict[int, list[int]] = OrderedDict()
        self._places: dict[tuple[int, ...], list[_Place]] = {}
        self._count = 0
        self._next = 0

    def __len__(self) -> int:
        return self._count

    def remember(self, answer: Sequence[int]) -> None:
        """Keep a complete answer. If it is longer than the limit, only its beginning is kept."""
        kept = list(answer[: self._tokens_max])
        if len(kept) <= MIN_MATCH:
            return
        number = self._next
        self._next += 1
        self._answers[number] = kept
        self._count += len(kept)
        for end in range(MIN_MATCH, len(kept)):
            places = self._places.setdefault(tuple(kept[end - MIN_MATCH : end]), [])
            places.append((number, end))
            del places[:-_PLACES]
        while self._count > self._tokens_max:
            self._forget(*self._answers.popitem(last=False))

    def _forget(self, number: int, answer: list[int]) -> None:
        self._count -= len(answer)
        for end in range(MIN_MATCH, len(answer)):
            key = tuple(answer[end - MIN_MATCH : end])
            places = [place for place in self._places.get(key, ()) if place[0] != number]
            if places:
                self._places[key] = places
            else:
                self._places.pop(key, None)

    def propose(self, answer: Sequence[int], limit: int = MAX_DRAFT) -> tuple[list[int], float]:
        """Returns the tokens that followed the longest match of the answer's end, and the confidence."""
        end = answer[-MAX_MATCH:]
        if not self._places or len(end) < MIN_MATCH or limit <= 0:
            return [], 0.0
        best, found = 0, (0, 0)
        for number, place in reversed(self._places.get(tuple(end[-MIN_MATCH:]), ())):
            length = _match(self._answers[number], place, end)
            if length > best:
                best, found = length, (number, place)
        if not best:
            return [], 0.0
        number, place = found
        return self._answers[number][place : place + min(limit, MAX_DRAFT, 2 * best)], confidence(best)


def _match(answer: Sequence[int], place: int, end: Sequence[int]) -> int:
    most, length = min(len(end), place), MIN_MATCH
    while length < most and answer[place - 1 - length] == end[-1 - length]:
        length += 1
    return length
