"""What drafters tell of the experts that they chose, for a target that reads its own from disk.

A drafter that is the same mixture in fewer bits chooses nearly the same experts. What it tells is compared with what
the target chose for the same tokens, and read ahead only where the drafter was mostly right.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from twd.wire.draft import EXPERT_NUMBERS_MAX, DraftProposed
from twd.wire.prefix import extend

Choice = list[int]
"""The experts that one token chooses, layer after layer, as many in each."""
_COMPARED: Final = 4.0
"""So many tokens of a drafter were compared before its choices are used."""
_RIGHT: Final = 0.5
"""This share of its choices must be right: the next layer's router alone foretells more than half."""
_DECAY: Final = 0.98
_KEPT: Final = 1024
_NAMES: Final = 256


@dataclass(frozen=True, slots=True)
class ExpertForesight:
    """What a target that reads its experts offers. `experts`: how many each of its layers has."""

    experts: tuple[int, ...]
    chosen: Callable[[int], Sequence[int]]
    """A token -> what it chose when it was computed last; empty: not known."""
    foresee: Callable[[Sequence[Choice]], None]
    """Lets these be read ahead, if that pays."""


@dataclass(slots=True)
class _Record:
    tokens: float = 0.0
    right: float = 0.0

    @property
    def trusted(self) -> bool:
        return self.tokens >= _COMPARED and self.right >= _RIGHT * self.tokens


class DraftedExperts:
    """The choices of all drafters of a target; every table has a bound."""

    def __init__(self, target: ExpertForesight) -> None:
        self._target = target
        self._told: dict[int, tuple[str, Choice]] = {}
        """By the hash of the text that ends with the token."""
        self._records: dict[str, _Record] = {}
        self.compared = 0
        """How many choices were compared with those of the target."""
        self.right = 0
        self.unknown = 0
        """How many told experts do not exist; they were dropped."""

    def hear(self, event: DraftProposed, tokens: Sequence[int]) -> None:
        """Keep what came along with a draft. `tokens`: the guesses."""
        text, left = event.prefix, EXPERT_NUMBERS_MAX
        for index, told in enumerate(event.experts[: len(tokens)]):
            if index:
                text = extend(text, (tokens[index - 1],))
            left -= len(told)
            choice = self._existing(told) if left >= 0 else []
            if choice:
                self._keep(text, event.drafter, choice)

    def _existing(self, told: Sequence[int]) -> Choice:
        """Returns a choice whose experts all exist; one that does not fit the layers, or names others, is dropped."""
        layers = self._target.experts
        each = len(told) // len(layers)
        if not told or each * len(layers) != len(told):
            self.unknown += len(told)
            return []
        unknown = sum(not 0 <= one < layers[place // each] for place, one in enumerate(told))
        self.unknown += unknown
        return [] if unknown else list(told)

    def _keep(self, text: int, drafter: str, choice: Choice) -> None:
        self._told.pop(text, None)
        self._told[text] = drafter, choice
        while len(self._told) > _KEPT:
            del self._told[next(iter(self._told))]

    def foresee(self, texts: Iterable[int]) -> set[int]:
        """Let the target read experts ahead: those that a drafter named for the last tokens of these texts. Only
        drafters that were mostly right before count. Returns the texts for which there are such names."""
        known: dict[int, Choice] = {}
        for text in texts:
            drafter, choice = self._told.get(text, ("", []))
            if choice and drafter in self._records and self._records[drafter].trusted:
                known[text] = choice
        if known:
            self._target.foresee(list(known.values()))
        return set(known)

    def learn(self, computed: Iterable[tuple[int, int]]) -> None:
        """Compare what was told with what the target has chosen. `computed`: texts by hash, and the last token of each,
        which the target has just read."""
        for text, token in computed:
            drafter, told = self._told.pop(text, ("", []))
            chosen = self._target.chosen(token) if told else ()
            if chosen:
                self._compare(self._record(drafter), told, chosen)

    def _compare(self, record: _Record, told: Choice, chosen: Sequence[int]) -> None:
        layers = len(self._target.experts)
        mine, theirs = ({(p * layers // len(one), e) for p, e in enumerate(one)} for one in (chosen, told))
        right = len(mine & theirs)
        self.compared += len(theirs)
        self.right += right
        record.tokens = record.tokens * _DECAY + 1.0
        record.right = record.right * _DECAY + right / len(theirs)

    def _record(self, drafter: str) -> _Record:
        record = self._records.pop(drafter, None) or _Record()
        self._records[drafter] = record
        while len(self._records) > _NAMES:
            del self._records[next(iter(self._records))]
        return record
