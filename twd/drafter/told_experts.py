"""What a drafter tells of the experts that it chose. Pure."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

Chosen = Callable[[int], Sequence[int]]
"""A token -> the experts that it chose when it was computed last, layer after layer; empty: not known."""
TOKENS_MAX: Final = 32
NUMBERS_MAX: Final = 8192
"""What one message tells at most: its bytes travel over the network."""


@runtime_checkable
class RemembersChoices(Protocol):
    """A draft model that may be a mixture."""

    @property
    def chosen(self) -> Chosen | None:
        """Tells which experts a token chose; None: it does not know."""
        ...


def told_choices(chosen: Chosen, tokens: Sequence[int]) -> list[list[int]]:
    """Returns the choices of these tokens, up to the bounds; those of tokens behind the last known one are left out."""
    told: list[list[int]] = []
    left = NUMBERS_MAX
    for token in tokens[:TOKENS_MAX]:
        choice = list(chosen(token))
        left -= len(choice)
        told.append(choice if left >= 0 else [])
    while told and not told[-1]:
        told.pop()
    return told
