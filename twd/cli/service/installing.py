"""Carries out what `twd service` plans: users, folders, secrets, settings, and the unit itself."""

from collections.abc import Iterator
from pathlib import Path

from twd.cli.service.preparing import PreparedService
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.setup.units.kept_file import marked
from twd.setup.units.kept_secrets import keep_secrets
from twd.setup.units.launchd_job import launchd_job
from twd.setup.units.launchd_manager import LaunchdManager
from twd.setup.units.plan import (
    AGENT,
    FULL,
    SERVICE_USER,
    SYSTEM_STATE,
    UnitPlaces,
    launchd_places,
    systemd_places,
)
from twd.setup.units.system import LocalSystem
from twd.setup.units.systemd_manager import SystemdManager, read, remove_unit, write_unit
from twd.setup.units.systemd_unit import systemd_unit
from twd.setup.units.unit_state import UnitState


def manager_of(machine: LocalSystem, system: bool) -> SystemdManager | LaunchdManager:
    """The service manager of this machine or user."""
    return (LaunchdManager if machine.is_mac else SystemdManager)(system, machine)


def places_of(machine: LocalSystem, name: str, system: bool) -> UnitPlaces:
    """Where the files of a service lie."""
    places = launchd_places if machine.is_mac else systemd_places
    return places(name, system, machine.home, machine.root)


def install_service(prepared: PreparedService, machine: LocalSystem, dry_run: bool) -> Iterator[str]:
    """Do it, and yield what was done."""
    plan, places = prepared.plan, prepared.places
    text = marked(launchd_job(plan, _log(plan.home)) if machine.is_mac else systemd_unit(plan))
    if dry_run:
        yield f"# {places.unit}"
        yield text
        yield from (
            f"# would be written, readable for root only: {places.credentials / name}" for name in prepared.secrets
        )
        return
    manager = manager_of(machine, plan.system)
    manager.check()
    _check_other(machine, plan.name, plan.system)
    if isinstance(manager, SystemdManager):
        yield from manager.make_user()
    yield from _folders(prepared, machine)
    yield from keep_secrets(places.credentials, prepared.secrets) if prepared.secrets else ()
    yield from _settings(prepared)
    changed = write_unit(places, text)
    yield f"{places.unit} {'written' if changed else 'is as it should be'}"
    if isinstance(manager, LaunchdManager):
        yield from manager.take_up(plan.name, str(places.unit), changed)
        return
    yield from manager.stay_after_logout()
    yield from manager.take_up(places.unit.name, changed)


def _log(home: str) -> str:
    return f"{home}/logs/service.log"


def _check_other(machine: LocalSystem, name: str, system: bool) -> None:
    """Both services would want the same state folder."""
    other = AGENT if name == FULL else FULL
    if places_of(machine, other, system).unit.exists():
        more = " --agent" if other == AGENT else ""
        text = (
            f"{other} is installed here already, and {'includes' if other == FULL else 'is part of'} what {name} does"
        )
        raise CommandError(ExitCode.ALREADY_RUNNING, f"{text}; `twd service uninstall{more}` removes it first")


def _folders(prepared: PreparedService, machine: LocalSystem) -> Iterator[str]:
    plan = prepared.plan
    prepared.places.config.mkdir(parents=True, exist_ok=True)
    home = machine.at(plan.home)
    if machine.is_mac or not plan.system:
        (home / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
    elif plan.home != str(SYSTEM_STATE) and not home.is_dir():
        machine.must("install", "-d", "-o", SERVICE_USER, "-g", SERVICE_USER, "-m", "700", plan.home)
        yield f"{plan.home} made"


def _settings(prepared: PreparedService) -> Iterator[str]:
    """Give the service of the machine a copy of the settings; a file that is there is never written over."""
    source, target = prepared.copied_from, prepared.config
    if source is None or target is None:
        return
    text, known = source.read_text(), read(target)
    if known is not None and known != text:
        raise CommandError(ExitCode.DIFFERENT, f"{target} is there and differs from {source}; edit it, or move it away")
    if known is None:
        target.write_text(text)
        target.chmod(0o640)
        _give_group(target)
        yield f"{target} written, a copy of {source}; the service reads it from now on"


def _give_group(file: Path) -> None:
    """Let the service read it, and nobody else."""
    import grp
    import os

    try:
        os.chown(file, -1, grp.getgrnam(SERVICE_USER).gr_gid)
    except (KeyError, PermissionError):
        file.chmod(0o644)


def uninstall_service(machine: LocalSystem, name: str, system: bool) -> list[str]:
    """End a service and remove its unit; return what was done."""
    manager, places = manager_of(machine, system), places_of(machine, name, system)
    if not places.unit.exists():
        return []
    manager.check()
    if isinstance(manager, LaunchdManager):
        return [*manager.let_go(name), *remove_unit(places.unit)]
    done = [*manager.let_go(places.unit.name), *remove_unit(places.unit)]
    manager.forget()
    return done


def states_of(manager: SystemdManager | LaunchdManager, machine: LocalSystem) -> dict[str, UnitState]:
    """How both services are."""
    if isinstance(manager, LaunchdManager):
        return {name: manager.state(name) for name in (FULL, AGENT)}
    if not machine.has_systemd:
        return {FULL: UnitState(), AGENT: UnitState()}
    return {name: manager.state(f"{name}.service") for name in (FULL, AGENT)}
