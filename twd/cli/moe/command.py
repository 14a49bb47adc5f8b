"""`twd moe`: the group of commands for mixtures of experts, each imported when it is used."""

import importlib
from typing import Final

import click

_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "summary": ("twd.cli.moe.summary:summary", "What a mixture weighs, or what a profile tells."),
    "plan": ("twd.cli.moe.plan:plan_command", "Where experts should lie, and how quick that would be."),
    "profile": ("twd.cli.moe.profile:profile_command", "Count which experts a model uses."),
    "bench": ("twd.cli.moe.bench:bench_command", "How fast a mixture writes, what was in memory, what was read."),
    "defuse": ("twd.cli.moe.convert:defuse", "Write each expert as tensors of its own."),
    "fuse": ("twd.cli.moe.convert:fuse", "Write all experts of a layer as one tensor, as llama.cpp wants them."),
}


class LazyMoeGroup(click.Group):
    """Imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one that is asked for."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=LazyMoeGroup)
def moe() -> None:
    """Mixtures of experts: what is in them, which experts are used, and where they should lie."""
