"""`twd upgrade`: a newer version takes over, and the old one comes back if it does not work. `twd rollback`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.model import Settings
from twd.setup.units.journal import unit_of
from twd.setup.units.system import LocalSystem
from twd.setup.units.systemd_manager import SystemdManager
from twd.setup.versions.folder import VersionProblem, VersionsFolder, order
from twd.setup.versions.houses import DetachedHouse, ServiceHouse, SystemTime
from twd.setup.versions.make import make_version, newest_wheel
from twd.setup.versions.takeover import Takeover, TakeoverPolicy, UpgradeHouse
from twd.setup.versions.trial import VersionTrial, no_room

DOWNLOAD_S = 600.0


@click.command()
@click.option(
    "--from",
    "wheels",
    type=click.Path(path_type=Path),
    help="A folder with the packages of the new version; without: the package registry that pip knows.",
)
@click.option("--check", is_flag=True, help="Say whether there is a newer version, and change nothing.")
@click.pass_obj
def upgrade(ctx: CliContext, wheels: Path | None, check: bool) -> ExitCode:
    """Install the newest version beside the one in use, try it, and let it take over.

    Its doctor must find nothing new, and it must load the models, before the old one ends. If it then does not work,
    the old one comes back by itself.
    """
    folder = installation()
    with _as_errors(), _packages(folder, wheels) as source:
        version = newest_wheel(source)[0]
        if order(version) <= order(folder.in_use()):
            click.echo(f"{folder.in_use()} is in use, and {source if wheels else 'the registry'} has {version}")
            return ExitCode.OK
        if check:
            click.echo(f"{version} is there; {folder.in_use()} is in use. `twd upgrade` takes it")
            return ExitCode.OK
        house = house_of(ctx, folder)
        make_version(folder, version, source, "native", click.echo)
        _try(ctx, folder, version)
        _take(ctx, folder, house, version)
    click.echo(f"{version} is in use; `twd rollback` goes back to {folder.before()}")
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
    with _as_errors():
        _take(ctx, folder, house_of(ctx, folder), before)
    click.echo(f"{before} is in use")
    return ExitCode.OK


def installation() -> VersionsFolder:
    """The installation that this program belongs to."""
    folder = VersionsFolder.of_program()
    if folder is None:
        text = f"{sys.prefix} is no installation with versions: in a checkout, `git pull` and `make setup` renew it"
        raise CommandError(ExitCode.CANNOT_START, f"{text}; contrib/install.sh makes an installation that can")
    return folder


@contextmanager
def _as_errors() -> Iterator[None]:
    try:
        yield
    except VersionProblem as problem:
        raise CommandError(ExitCode.CANNOT_START, str(problem)) from None


@contextmanager
def _packages(folder: VersionsFolder, wheels: Path | None) -> Iterator[Path]:
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


def house_of(ctx: CliContext, folder: VersionsFolder) -> UpgradeHouse:
    """What runs here: a service of the system, or what `twd up -d` started."""
    machine = LocalSystem()
    unit = unit_of(machine, str(ctx.home.path))
    if unit is not None:
        manager = SystemdManager(unit[0], machine)
        if manager.state(unit[1]).active:
            return ServiceHouse(ctx.home, manager, unit[1])
    return DetachedHouse(ctx.home, folder)


def _try(ctx: CliContext, folder: VersionsFolder, version: str) -> None:
    options = ("-c", os.path.abspath(ctx.config)) if ctx.config else ()
    trial = VersionTrial(folder.program(version), folder.program(folder.in_use()), options, ctx.environment)
    click.echo(f"{version}: its doctor looks at this machine")
    trial.doctor()
    settings = running_settings(ctx)
    size = model_bytes(settings)
    reason = _no_room(settings, size)
    if reason:
        click.echo(f"{version} is not tried beside {folder.in_use()}: {reason}")
        return
    click.echo(f"{version} loads the models beside {folder.in_use()}, and is asked a question")
    trial.load(TakeoverPolicy().with_models(size).ready_s)


def _no_room(settings: Settings, size: int) -> str:
    from twd.engine.host_memory.limits import available_bytes

    return no_room(settings, size, available_bytes())


def model_bytes(settings: Settings) -> int:
    """How large the files of all models are."""
    paths = [model.path for model in settings.models.values()] + [one.path for one in settings.drafters if one.path]
    return sum(Path(path).stat().st_size for path in paths if Path(path).is_file())


def _take(ctx: CliContext, folder: VersionsFolder, house: UpgradeHouse, version: str) -> None:
    policy = TakeoverPolicy().with_models(model_bytes(running_settings(ctx)))
    Takeover(folder, house, policy, SystemTime(), click.echo).take(version)
