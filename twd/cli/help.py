"""`twd help`: what no single command's --help has room for."""

import json

import click

from twd.kit.exit_codes import MEANING, ExitCode


@click.command("help")
@click.argument("topic", type=click.Choice(["exit-codes", "settings"]), default="exit-codes")
@click.option("--json", "as_json", is_flag=True, help="Print the exit codes as JSON.")
def help_command(topic: str, as_json: bool) -> ExitCode:
    """Exit codes, or every setting with its default."""
    if topic == "settings":
        from twd.settings.reference import reference

        click.echo_via_pager(reference())
    elif as_json:
        click.echo(json.dumps({str(int(code)): text for code, text in MEANING.items()}))
    else:
        for code, text in MEANING.items():
            click.echo(f"{int(code):4}  {text}")
    return ExitCode.OK
