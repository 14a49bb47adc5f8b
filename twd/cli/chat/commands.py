"""What may be typed in a chat besides questions: `/retry` and the like."""

import difflib
from typing import Final, NamedTuple

HELP: Final[dict[str, tuple[str, str]]] = {
    "/help": ("", "this list"),
    "/new": ("", "forget the conversation"),
    "/retry": ("", "ask the last question again"),
    "/model": ("[NAME]", "list the models, or talk to another one"),
    "/system": ("[TEXT|off]", "show, set or drop the instructions to the model"),
    "/direct": ("", "without drafts, or with them again"),
    "/compare": ("", "answer twice, with drafts and without, or once again"),
    "/save": ("FILE", "write the conversation down as JSON"),
    "/quit": ("", "leave; so does Ctrl-D"),
}
_ALSO: Final = {"/exit": "/quit", "/q": "/quit", "/?": "/help", "/h": "/help"}


class ChatCommand(NamedTuple):
    """A command and its argument."""

    name: str
    argument: str = ""


class UnknownCommand(Exception):
    """A command that does not exist; the text names the nearest."""


def parse_command(line: str) -> ChatCommand | None:
    """Return the command in a line, or None for a question; `//` begins a question with a slash."""
    if not line.startswith("/") or line.startswith("//"):
        return None
    name, _, argument = line.strip().partition(" ")
    name = _ALSO.get(name, name)
    if name in HELP:
        return ChatCommand(name, argument.strip())
    near = difflib.get_close_matches(name, HELP, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UnknownCommand(f"there is no {name[:40]}; /help lists what there is.{hint}")


def question_of(line: str) -> str:
    """Return the question in a line, as the model gets it."""
    return line[1:] if line.startswith("//") else line


def help_lines() -> list[str]:
    """Return the lines that `/help` prints."""
    rows = [(f"{name} {argument}".strip(), words) for name, (argument, words) in HELP.items()]
    rows += [('"""', "begins and ends several lines; \\ at an end goes on, too")]
    rows += [("Ctrl-C", "stops an answer; at the prompt, twice leaves")]
    return [f"{name:<20} {words}" for name, words in rows]
