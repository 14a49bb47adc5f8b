"""What a drafter tells of the experts that it chose. Pure."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from twd.wire.draft import EXPERT_NUMBERS_MAX, EXPERT_TOKENS_MAX

Chosen = Callable[[int], Sequence[int]]
"""A token -> the experts that it chose when it was computed last, layer after layer; empty: not known."""


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
    left = EXPERT_NUMBERS_MAX
    for token in tokens[:EXPERT_TOKENS_MAX]:
        choice = list(chosen(token))
        left -= len(choice)
        told.append(choice if left >= 0 else [])
    while told and not told[-1]:
        told.pop()
    return told
