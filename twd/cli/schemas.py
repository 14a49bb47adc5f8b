"""`twd schemas`: the vocabulary as JSON Schemas."""

from pathlib import Path

import click

from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count

_folder = click.option(
    "--folder", default="bus_schemas", type=click.Path(file_okay=False, path_type=Path), show_default=True
)


@click.group()
def schemas() -> None:
    """The messages on the bus as JSON Schemas, for readers in other languages."""


@schemas.command("write")
@_folder
def write_schemas(folder: Path) -> ExitCode:
    """Write the folder anew from the vocabulary."""
    from twd.wire import schema

    touched = schema.write(folder)
    for path in touched:
        click.echo(path)
    click.echo(f"{count(len(touched), 'file')} changed in {folder}")
    return ExitCode.OK


@schemas.command("check")
@_folder
def check_schemas(folder: Path) -> ExitCode:
    """Compare the folder with the vocabulary; exit code 10 when they differ."""
    from twd.wire import schema

    problems = schema.check(folder)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        click.echo("run `twd schemas write`, look at the difference, and commit it", err=True)
        return ExitCode.DIFFERENT
    click.echo(f"{folder} is in step with twd/wire")
    return ExitCode.OK
