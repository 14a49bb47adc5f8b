"""How a chat looks: the model's text as it comes, remarks dimmed; nothing that would command the terminal."""

import os
import sys
from typing import Final

import click

_KEPT: Final = frozenset("\n\t")
_NO_COLOUR: Final = "NO_COLOR"


def harmless(text: str) -> str:
    """Text without control characters: a model may write what a terminal takes for a command."""
    if text.isprintable():
        return text
    return "".join(letter for letter in text if letter in _KEPT or not _commands(letter))


def _commands(letter: str) -> bool:
    return ord(letter) < 32 or 127 <= ord(letter) < 160


class Screen:
    """Where a chat is read: a terminal, or a pipe that gets the bare text."""

    def __init__(self, terminal: bool | None = None) -> None:
        self.terminal = sys.stdout.isatty() if terminal is None else terminal
        self._at_line_start = True
        self._thinking = False

    def thought(self, piece: str) -> None:
        """A piece of what the model thinks before it answers; only where people read."""
        shown = harmless(piece) if self.terminal else ""
        if shown:
            click.secho(shown, nl=False, dim=True, color=_colour())
            self._at_line_start, self._thinking = shown.endswith("\n"), True

    def text(self, piece: str) -> None:
        """A piece of an answer."""
        if self._thinking:
            self.end_line()
            click.echo()
        self._thinking = False
        shown = harmless(piece) if self.terminal else piece
        if shown:
            click.echo(shown, nl=False)
            self._at_line_start = shown.endswith("\n")

    def end_line(self) -> None:
        """What follows begins on a line of its own."""
        if not self._at_line_start:
            click.echo()
            self._at_line_start = True

    def remark(self, words: str) -> None:
        """Something that is not the model's; only where people read."""
        self.end_line()
        if self.terminal:
            click.secho(harmless(words), dim=True, color=_colour())

    def problem(self, words: str) -> None:
        """Something went wrong, and the chat goes on."""
        self.end_line()
        click.secho(harmless(words), fg="red", err=True, color=_colour())


def _colour() -> bool | None:
    return False if _NO_COLOUR in os.environ else None
