"""Something that knows, without a model, how a text must continue."""

from collections.abc import Sequence
from typing import Protocol


class KnownContinuation(Protocol):
    """Follows one text and returns what comes next, as far as it is certain."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens of the text."""
        ...

    def propose(self, limit: int, beyond: Sequence[int] = ()) -> tuple[list[int], list[float]]:
        """Returns at most `limit` next tokens, and the confidence of each. They follow `beyond`, tokens that may
        follow the text."""
        ...
