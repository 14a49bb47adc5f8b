"""The commands that the README prints: those of its blocks, and those within its sentences."""

import re
import shlex
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
_PROGRAMS = r"(?:[A-Z_]+=\S+ )*(?:git|make|twd)"


def block_commands(page: Path = README) -> list[str]:
    """Each line of an indented block that is a command, without the comment behind it."""
    lines = re.findall(rf"^    ({_PROGRAMS} [^#\n]*)", page.read_text("utf-8"), re.MULTILINE)
    return [line.strip() for line in lines]


def spoken_commands() -> list[str]:
    """Each command of twd within a sentence, as `twd plan MODEL`, and those behind a comment of a block."""
    return re.findall(r"`((?:[A-Z_]+=\S+ )*twd [^`]+)`", README.read_text("utf-8"))


def twd_arguments(command: str) -> list[str] | None:
    """What comes behind `twd`, without variables before it and files behind it; None where it is another program."""
    words = [word for word in shlex.split(command.partition(" > ")[0]) if not re.match(r"[A-Z_]+=", word)]
    return words[1:] if words and words[0] == "twd" else None


def yaml_block(first_line: str) -> str:
    """The fenced YAML block that begins with this line."""
    found = re.search(rf"```yaml\n({re.escape(first_line)}\n.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None, f"the README has no YAML that begins with {first_line!r}"
    return found[1]
