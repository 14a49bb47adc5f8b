"""`twd completion`: what a shell needs to complete our commands."""

import click
from click.shell_completion import get_completion_class

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

HOW = {
    "bash": 'eval "$(twd completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(twd completion zsh)"   # in ~/.zshrc',
    "fish": "twd completion fish > ~/.config/fish/completions/twd.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(HOW)))
def completion(shell: str) -> ExitCode:
    """Print the completion script of a shell; its first line says where it goes."""
    from twd.cli.app import app

    made = get_completion_class(shell)
    if made is None:
        raise CommandError(ExitCode.USAGE, f"no completion for {shell}")
    click.echo(f"# {HOW[shell]}")
    click.echo(made(app, {}, "twd", "_TWD_COMPLETE").source())
    return ExitCode.OK
