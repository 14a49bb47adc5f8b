"""`twd upgrade`: a newer version takes over, and the old one comes back if it does not work. `twd rollback`."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from twd.cli.common.context import CliContext
from twd.cli.common.keep_option import KEEP_OPTION
from twd.cli.common.numbers import SECONDS
from twd.cli.upgrade.apart import run_apart
from twd.cli.upgrade.here import as_errors, house_of, installation, prune_here, take, try_then_take
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.setup.versions import pruning
from twd.setup.versions.folder import VersionProblem, order
from twd.setup.versions.lock import alone
from twd.setup.versions.make import make_version, newest_wheel
from twd.setup.versions.takeover import TakeoverPolicy

DOWNLOAD_S: Final = 600.0
OTHER_S: Final = 900.0
"""How long a takeover that was asked for from elsewhere waits for one that is under way."""
SETTLED_S: Final = TakeoverPolicy.settled_s


@click.command()
@click.argument("nodes", metavar="[NODE]...", nargs=-1)
@click.option("--all", "everywhere", is_flag=True, help="Every machine of the installation, and this one last.")
@click.option(
    "--from",
    "wheels",
    type=click.Path(path_type=Path),
    help="A folder with the packages of the new version; without: the package registry that pip knows, or for other "
    "machines what is installed here.",
)
@click.option("--check", is_flag=True, help="Say whether there is a newer version, and change nothing.")
@click.option("--ssh-user", default="", metavar="USER", help="The user on other machines; else as `twd deploy` had it.")
@click.option(
    "--settle", default=SETTLED_S, show_default=True, type=SECONDS, help="Seconds for which a new version is watched."
)
@KEEP_OPTION
@click.option("--prune", is_flag=True, help="Remove the versions here that nobody needs any more, and do nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON what came of each machine.")
@click.option("--take", "version", default="", hidden=True)
@click.option("--apart", is_flag=True, hidden=True)
@click.pass_obj
def upgrade(
    ctx: CliContext,
    nodes: tuple[str, ...],
    everywhere: bool,
    wheels: Path | None,
    check: bool,
    ssh_user: str,
    settle: float,
    keep: int,
    prune: bool,
    as_json: bool,
    version: str,
    apart: bool,
) -> ExitCode:
    """Install the newest version beside the one in use, try it, and let it take over.

    Its doctor must find nothing new, and it must load the models, before the old one ends. If it then does not work,
    the old one comes back by itself.

    With NODE or --all, other machines of this installation are renewed by ssh, one after another: first those that
    only lend, then those that serve, the coordinator, the edge, and this one last. All are looked at before any is
    changed, and after the first one that fails the others keep what they have.

    Then old versions are removed: the one in use stays, the one before it, and those that a process runs from.
    """
    if version:
        words = ("--take", version, f"--settle={settle:g}")
        return (
            ExitCode(run_apart(ctx.home, *_options(ctx), "upgrade", *words)) if apart else _take(ctx, version, settle)
        )
    if prune:
        return _prune(nodes, everywhere, keep)
    if nodes or everywhere:
        from twd.cli.upgrade.rolling import RollingWish, roll

        return roll(ctx, RollingWish(nodes, everywhere, wheels, check, ssh_user, settle, keep, as_json))
    if as_json or ssh_user:
        raise CommandError(ExitCode.USAGE, "--json and --ssh-user are for other machines: name them, or --all")
    return _upgrade_here(ctx, wheels, check, settle, keep)


def _options(ctx: CliContext) -> tuple[str, ...]:
    return ("-c", ctx.config) if ctx.config else ()


def _upgrade_here(ctx: CliContext, wheels: Path | None, check: bool, settle: float, keep: int) -> ExitCode:
    folder = installation()
    with as_errors(), _packages(wheels) as source:
        version = newest_wheel(source)[0]
        if order(version) <= order(folder.in_use()):
            click.echo(f"{folder.in_use()} is in use, and {source if wheels else 'the registry'} has {version}")
            return ExitCode.OK
        if check:
            click.echo(f"{version} is there; {folder.in_use()} is in use. `twd upgrade` takes it")
            return ExitCode.OK
        with alone(folder):
            make_version(folder, version, source, "native", click.echo)
            try_then_take(ctx, folder, version, settle, click.echo)
        prune_here(folder, keep, click.echo)
    click.echo(f"{version} is in use; `twd rollback` goes back to {folder.before()}")
    return ExitCode.OK


def _prune(nodes: tuple[str, ...], everywhere: bool, keep: int) -> ExitCode:
    if nodes or everywhere:
        raise CommandError(ExitCode.USAGE, "--prune is for this machine: type it there")
    folder = installation()
    with as_errors(), alone(folder, OTHER_S):
        found = pruning.prune(folder, keep)
    for line in found.lines():
        click.echo(line)
    if not found.removed and not found.running:
        click.echo(f"there is nothing to remove: {', '.join(folder.listed())}")
    return ExitCode.OK


def _take(ctx: CliContext, version: str, settle: float) -> ExitCode:
    """Let a version take over that was sent here."""
    folder = installation()
    with as_errors(), alone(folder, OTHER_S):
        if not folder.is_complete(version):
            raise VersionProblem(f"version {version} is not there whole; there are: {', '.join(folder.listed())}")
        if folder.in_use() != version:
            try_then_take(ctx, folder, version, settle, click.echo)
    click.echo(f"{version} is in use")
    return ExitCode.OK


@click.command()
@click.pass_obj
def rollback(ctx: CliContext) -> ExitCode:
    """Let the version take over that was in use before. If that does not work, this one comes back."""
    folder = installation()
    before = folder.before()
    if not before:
        there = ", ".join(folder.listed())
        raise CommandError(
            ExitCode.NOT_FOUND, f"no version was in use here before {folder.in_use()}; there are: {there}"
        )
    with as_errors(), alone(folder):
        take(ctx, folder, house_of(ctx, folder), before, SETTLED_S, click.echo)
    click.echo(f"{before} is in use")
    return ExitCode.OK


@contextmanager
def _packages(wheels: Path | None) -> Iterator[Path]:
    """The folder with the new packages; those of the registry are fetched first, with all that they need."""
    if wheels is not None:
        if not wheels.is_dir():
            raise VersionProblem(f"{wheels} is no folder")
        yield wheels.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="twd-packages-") as fetched:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "-d", fetched, "twd"]
        try:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=DOWNLOAD_S, check=False).returncode
        except subprocess.TimeoutExpired:
            code = 1
        if code:
            raise VersionProblem("the newest version cannot be fetched; --from FOLDER takes packages from elsewhere")
        yield Path(fetched)
