"""How far work is that takes long, told while it goes on."""

from collections.abc import Callable

Share = Callable[[float], None]
"""How much is done, from 0 to 1."""
Progress = Callable[[float, str], None]
"""The same, and what is being done."""


def unheard(*_: object) -> None:
    """Nobody listens."""
