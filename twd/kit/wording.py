"""Turns numbers and counts into text, and compares texts without their numbers."""

import re
from typing import Final

_FIGURES: Final = re.compile(r"\d[\d.,]*")


def count(number: int, one: str, many: str = "") -> str:
    """Return a count with its noun: `1 model`, `2 models`. `many` is the plural where it is not `one` plus s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def figure(value: float) -> str:
    """Return a number with three significant digits, without exponent; below 0.001 it is `0`."""
    if abs(value) < 0.001:
        return "0"
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def gist(text: str) -> str:
    """Return the text without its numbers, to see whether two messages differ only in numbers."""
    return _FIGURES.sub("", text)
