"""Numbers on the command line."""

import math
from typing import Any, Final

import click

SECONDS_MAX: Final = 86_400.0


class NumberRange(click.FloatRange):
    """A number within bounds; NaN is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does, and one thing more."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


SECONDS: Final = NumberRange(0.0, SECONDS_MAX)
"""How long a command waits, or watches."""
