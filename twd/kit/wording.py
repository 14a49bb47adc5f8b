"""Numbers of things as people say them, and what a text says apart from its numbers."""

import re
from typing import Final

_FIGURES: Final = re.compile(r"\d[\d.,]*")


def count(number: int, one: str, many: str = "") -> str:
    """`1 model`, `2 models`; `many` where it is not the one with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def figure(value: float) -> str:
    """Three digits of a measurement, without exponents; what is next to nothing is 0."""
    if abs(value) < 0.001:
        return "0"
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def gist(text: str) -> str:
    """What stays the same of a text that is told again with other figures."""
    return _FIGURES.sub("", text)
