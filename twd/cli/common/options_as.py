"""The options of a command as one value: for commands with many of them."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from twd.cli.common.context import CliContext
from twd.kit.exit_codes import ExitCode

Options = TypeVar("Options")


def options_as(
    options: Callable[..., Options],
) -> Callable[[Callable[[CliContext, Options], ExitCode]], Callable[..., ExitCode]]:
    """Hand a command its arguments and options as one value of this class, which has a field for each of them."""

    def taking_one(command: Callable[[CliContext, Options], ExitCode]) -> Callable[..., ExitCode]:
        @wraps(command)
        def run(ctx: CliContext, /, **given: Any) -> ExitCode:
            return command(ctx, options(**given))

        return run

    return taking_one
