"""Output for people: coloured tables in a terminal, plain text in a pipe."""

import os
import re
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ROW_MOST: Final = 100_000
"""A row of a table is one line where a program reads it, however long what a service tells of itself is."""


_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text of a model, a client or another machine, for a terminal: control characters are spelled as JSON does.

    A terminal would obey them: clear the screen, change its title, answer as if somebody typed.
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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

    read_by_people = sys.stdout.isatty()
    return OurConsole(highlight=False, soft_wrap=not read_by_people, width=None if read_by_people else ROW_MOST)


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
