"""`twd config`: what the settings are, where they come from, and what is wrong with them."""

import json
import os
from pathlib import Path
from typing import Any

import click

from twd.cli.common.context import CliContext
from twd.kit.exit_codes import ExitCode


@click.group()
def config() -> None:
    """The settings: each value with where it comes from, or what is wrong."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@click.pass_obj
def show(ctx: CliContext, as_json: bool, changed: bool) -> ExitCode:
    """Every setting; secrets are masked."""
    from twd.settings.show import describe

    entries = [entry for entry in describe(ctx.loaded) if not changed or entry.source != "default"]
    if as_json:
        click.echo(json.dumps({entry.key: {"value": entry.value, "source": entry.source} for entry in entries}))
        return ExitCode.OK
    from twd.kit.terminal import show as show_table
    from twd.kit.terminal import table

    rows = table("setting", "value", "from")
    for entry in entries:
        rows.add_row(entry.key, _plain(entry.value), entry.source)
    show_table(rows)
    return ExitCode.OK


def _plain(value: Any) -> str:
    from rich.markup import escape

    return escape(json.dumps(value, ensure_ascii=False))


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def check(ctx: CliContext, as_json: bool) -> ExitCode:
    """Load the settings and look for what is likely to fail later; exit code 6 when they cannot be used."""
    from twd.settings.show import check_settings

    report = check_settings(ctx.config, ctx.environment, Path.cwd(), Path.home())
    if as_json:
        facts = {"problems": report.problems, "warnings": report.warnings, "hints": report.hints}
        click.echo(json.dumps({key: [str(item) for item in items] for key, items in facts.items()}))
    else:
        _print_report({"wrong": report.problems, "look at": report.warnings, "hint": report.hints})
        if report.loaded is not None:
            click.echo(f"{report.loaded.source or 'the defaults'}: can be used")
    return ExitCode.CONFIG if report.problems else ExitCode.OK


def _print_report(parts: dict[str, Any]) -> None:
    colour = False if "NO_COLOR" in os.environ else None
    for word, items in parts.items():
        for item in items:
            click.echo(click.style(f"{word}: ", fg="red" if word == "wrong" else "yellow") + str(item), color=colour)
