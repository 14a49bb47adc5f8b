"""Somebody who knows, without a model, how a text must go on."""

from collections.abc import Sequence
from typing import Protocol


class KnownContinuation(Protocol):
    """Follows one text and says what comes next, as far as anything is certain."""

    def extend(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        ...

    def propose(self, limit: int, beyond: Sequence[int] = ()) -> tuple[list[int], list[float]]:
        """So many tokens at the most and how sure each is; they follow `beyond`, which may follow the text."""
        ...
