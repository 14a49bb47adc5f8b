"""Output for people: coloured tables in a terminal, plain text in a pipe."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def let_go_of_stdout() -> None:
    """Whoever read along went away; what is said from now on leads nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> "Console":
    """Where people read. In a pipe it has no colours, and lines are as long as they are."""
    from rich.console import Console

    class OurConsole(Console):
        """Leaves a reader that went away to the command line, which knows that nothing failed; rich would exit."""

        def on_broken_pipe(self) -> None:
            raise

    return OurConsole(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)


def show(rows: "Table") -> None:
    """Print a table; in a pipe without the spaces that fill it up."""
    import click

    out = console()
    if out.is_terminal:
        out.print(rows)
        return
    with out.capture() as captured:
        out.print(rows)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def table(*headings: str) -> "Table":
    """A table without lines."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in headings:
        made.add_column(heading)
    return made
