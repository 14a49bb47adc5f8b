"""`twd deploy`: puts twd on other machines by ssh, and makes them members of the installation here."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import yaml

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.common.keep_option import KEEP_OPTION
from twd.cli.common.options_as import options_as
from twd.cli.deploy.deployed import DeployedMachines
from twd.cli.deploy.report import HostReport
from twd.cli.deploy.targets import DeployTarget, targets_of
from twd.cli.members.own_broker import broker_address, needed_broker, own_store
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.cli.deploy.run import DeployPlan

AT_ONCE: Final = 16
CONFIG_BYTES_MAX: Final = 1 << 20
HEADER: Final = "# written by `twd deploy`, which may write it again; without this line it leaves the file alone\n"


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What the command line asks for."""

    hosts: tuple[str, ...]
    ssh_user: str
    config_file: str | None
    system_wide: bool
    wheels: str | None
    python_folder: str | None
    reached_at: tuple[str, ...]
    keep: int
    dry_run: bool
    as_json: bool


@click.command()
@click.argument("hosts", metavar="[HOST]...", nargs=-1)
@click.option("--ssh-user", default="", metavar="USER", help="The user there; else as ssh's config says.")
@click.option(
    "--config", "config_file", metavar="FILE", help="Settings for the machines, instead of those for lending."
)
@click.option("--system/--user", "system_wide", default=False, help="Into /opt/twd as root, or for that user alone.")
@click.option("--from", "wheels", metavar="FOLDER", help="Wheels to install, instead of what is installed here.")
@click.option(
    "--python",
    "python_folder",
    metavar="FOLDER",
    help="A Python that may lie anywhere, for machines without one; else this one.",
)
@click.option(
    "--host", "reached_at", multiple=True, help="A name or address of this machine for them; give it for each."
)
@KEEP_OPTION
@click.option("--dry-run", is_flag=True, help="Look at the machines, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
@options_as(DeployOptions)
def deploy(ctx: CliContext, asked: DeployOptions) -> ExitCode:
    """Install twd on each HOST by ssh, let it join, start its agent, and say what it lends.

    HOST is what ssh takes; without one, the machines under pool.workers. They need neither internet nor compiler, and
    a Python is sent to those that have none. What is there already stays; the same command again changes nothing, or
    ends what was cut off.
    """
    targets = targets_of(ctx.settings, asked.hosts, asked.ssh_user)
    reports = _deployed(ctx, asked, targets)
    if not asked.dry_run:
        _keep(ctx, targets, reports, asked.system_wide)
    if asked.as_json:
        click.echo(json.dumps([report.as_json() for report in reports]))
    else:
        _print(reports)
    return ExitCode.OK if not any(report.error for report in reports) else ExitCode.CANNOT_START


def _deployed(ctx: CliContext, asked: DeployOptions, targets: list[DeployTarget]) -> list[HostReport]:
    store, instance = own_store(ctx), needed_broker(ctx)
    plan = _plan(ctx, asked)

    async def live() -> list[HostReport]:
        from twd.cli.deploy.installation import LiveInstallation
        from twd.cli.deploy.run import HostDeployment, deploy_all
        from twd.cli.deploy.ssh import RemoteShell
        from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S

        async with ctx.bus("status") as bus:
            leases = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
            listens = running_settings(ctx).bus.host
            home = LiveInstallation(store, instance, listens, broker_address(ctx), leases, asked.reached_at)
            todo = [HostDeployment(RemoteShell(one), plan, home, _report(one, asked.as_json)) for one in targets]
            _, done = await asyncio.gather(home.call_the_roll(), deploy_all(todo, AT_ONCE))
            return done

    return asyncio.run(live())


def _plan(ctx: CliContext, asked: DeployOptions) -> "DeployPlan":
    """What to bring to every machine; raises CommandError where a part of it cannot be read."""
    from twd.cli.deploy.interpreter import PythonToSend
    from twd.cli.deploy.run import DeployPlan
    from twd.cli.deploy.wheels import bundle_here, bundle_of

    given = _read(asked.config_file) if asked.config_file else b""
    cache = ctx.home.cache / "deploy"
    bundle = bundle_of(Path(asked.wheels).expanduser(), cache) if asked.wheels else bundle_here(cache)
    python = PythonToSend(Path(asked.python_folder).expanduser() if asked.python_folder else None, cache)

    def settings(model_dir: str) -> bytes:
        return given or _lending(model_dir)

    return DeployPlan(bundle, settings, bool(given), asked.system_wide, asked.dry_run, python.packed, asked.keep)


def _keep(ctx: CliContext, targets: list[DeployTarget], reports: list[HostReport], system_wide: bool) -> None:
    known = DeployedMachines(ctx.home.path)
    for target, report in zip(targets, reports, strict=True):
        if report.lends:
            known.keep(report.node, target, system_wide)


def _report(target: DeployTarget, as_json: bool) -> HostReport:
    return HostReport(target.host, lambda line: click.echo(line, err=as_json))


def _read(name: str) -> bytes:
    """Return the settings for the machines; raises CommandError where they are none."""
    try:
        with Path(name).expanduser().open("rb") as file:
            content = file.read(CONFIG_BYTES_MAX)
        if not isinstance(yaml.safe_load(content), dict):
            raise CommandError(ExitCode.CONFIG, f"{name} holds no settings")
    except OSError as error:
        raise CommandError(ExitCode.NOT_FOUND, f"{name} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandError(ExitCode.CONFIG, f"{name} is no YAML: {error}") from None
    return HEADER.encode() + content


def _lending(model_dir: str) -> bytes:
    """Return settings with which a machine lends what it has."""
    settings: dict[str, object] = {"pool": {"host": "0.0.0.0"}}
    if model_dir:
        settings["agent"] = {"model_dirs": [model_dir]}
    return (HEADER + yaml.safe_dump(settings)).encode()


def _print(reports: list[HostReport]) -> None:
    for report in reports:
        if report.error:
            click.echo(f"{report.host}: failed: {report.error}", err=True)
        elif report.lends:
            what = "changed" if report.changed else "nothing changed"
            click.echo(f"{report.host} is {report.node}, {what}; it lends {report.lends}")
