"""`twd service`: twd as a service of the system, which starts at boot, is watched, and drains when it ends."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final

import click

from twd.cli.common.context import CliContext
from twd.cli.common.numbers import SECONDS
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.process.home import RunningInstance, StateFolder
from twd.setup.units.plan import AGENT, FULL, SYSTEM_STATE
from twd.setup.units.system import LocalSystem

RELOAD_S: Final = 1800.0
LOOK_S: Final = 0.1

scope_option = click.option(
    "--user/--system",
    "user",
    default=None,
    help="Of this user, or of the machine; without: of the machine for root, else of this user.",
)
agent_option = click.option("--agent", is_flag=True, help="The agent alone: this machine is lent to others.")


@click.group()
def service() -> None:
    """twd as a service of the system (systemd, or launchd on a Mac)."""


@service.command()
@scope_option
@click.option("--config", metavar="FILE", help="The settings of the service; without: those that `twd up` would read.")
@agent_option
@click.option("--dry-run", is_flag=True, help="Print the unit, and change nothing.")
@click.pass_obj
def install(ctx: CliContext, user: bool | None, config: str | None, agent: bool, dry_run: bool) -> ExitCode:
    """Write the unit, start it now and at every boot, and wait until it answers.

    Settings in this terminal's environment go into the unit, secrets into files that only the service manager reads.
    Again: what is there already stays. A unit that was changed by hand is not written over.
    """
    from twd.cli.service.installing import install_service
    from twd.cli.service.preparing import prepare

    machine = LocalSystem()
    prepared = prepare(ctx, machine, is_system(machine, user), config, agent)
    for line in install_service(prepared, machine, dry_run):
        click.echo(line)
    return ExitCode.OK


@service.command()
@scope_option
@agent_option
@click.option("--purge", is_flag=True, help="Remove models, keys, settings and logs of the service, too.")
@click.pass_obj
def uninstall(ctx: CliContext, user: bool | None, agent: bool, purge: bool) -> ExitCode:
    """End the service, with its drain, and remove its unit. Models, keys, settings and logs stay, without --purge."""
    from twd.cli.service.installing import places_of, uninstall_service

    machine = LocalSystem()
    system, name = is_system(machine, user), AGENT if agent else FULL
    places = places_of(machine, name, system)
    home = SYSTEM_STATE if system else ctx.home.path
    done = uninstall_service(machine, name, system)
    for line in done or [f"there is no {places.unit}"]:
        click.echo(line)
    for folder in filter(Path.is_dir, (machine.at(home), places.config)):
        if purge:
            _purge(folder)
        else:
            click.echo(f"kept: {folder}")
    return ExitCode.OK


def _purge(folder: Path) -> None:
    """Remove a folder of ours whole."""
    if StateFolder(folder).held():
        raise CommandError(ExitCode.ALREADY_RUNNING, f"twd runs in {folder}; `twd down` ends it. Nothing was removed")
    shutil.rmtree(folder)
    click.echo(f"removed: {folder}")


@service.command()
@scope_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def status(ctx: CliContext, user: bool | None, as_json: bool) -> ExitCode:
    """What the service manager says of our services here. Exit code 0: all that are installed work; 4: none is."""
    from twd.cli.service.installing import manager_of, states_of

    machine = LocalSystem()
    manager = manager_of(machine, is_system(machine, user))
    found = states_of(manager, machine)
    if as_json:
        click.echo(json.dumps({name: state.document() for name, state in found.items()}))
    for name, state in found.items():
        if not as_json and (state.there or name == FULL):
            click.echo(f"{name}: {state.line()}")
    there = [state.exit_code for state in found.values() if state.there]
    return max(there) if there else ExitCode.NOTHING_RUNS


@service.command("reload")
@click.option("--timeout", default=RELOAD_S, show_default=True, type=SECONDS, help="Seconds to wait for the end.")
@click.pass_obj
def reload_command(ctx: CliContext, timeout: float) -> ExitCode:
    """Read the settings again: models come and go, and no job is lost. What needs a restart is named."""
    instance = ctx.instance()
    if instance is None:
        raise CommandError(ExitCode.NOTHING_RUNS, f"nothing runs in {ctx.home.path}")
    if instance.reload is None:
        text = (
            "this twd was not started by a service manager, or is a demo; `twd start`, `stop` and `swap` change models"
        )
        raise CommandError(ExitCode.CANNOT_START, text)
    os.kill(instance.pid, signal.SIGHUP)
    done = _after(ctx, instance, timeout)
    if not done[0]:
        raise CommandError(ExitCode.CONFIG, done[1])
    click.echo(done[1])
    return ExitCode.OK


def _after(ctx: CliContext, before: RunningInstance, timeout_s: float) -> tuple[bool, str]:
    """Wait for the result that the supervisor records."""
    assert before.reload is not None
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        now, _ = ctx.home.read_instance()
        if now is None or now.pid != before.pid:
            raise CommandError(ExitCode.NOTHING_RUNS, "it ended meanwhile; `twd service status` tells why")
        if now.reload is not None and now.reload.count > before.reload.count:
            return now.reload.done_well, now.reload.words
        time.sleep(LOOK_S)
    raise CommandError(
        ExitCode.CANNOT_START, f"not done within {timeout_s:g} s; it goes on, `twd status` tells how far"
    )


def is_system(machine: LocalSystem, user: bool | None) -> bool:
    """Whose service is meant."""
    return machine.uid == 0 if user is None else not user
