"""Lets another version take over on this machine, tried first."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.deploy import unpack
from twd.cli.deploy.wheels import WheelBundle
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.identity import FILE_NAME
from twd.settings.model import Settings
from twd.setup.units.journal import unit_of
from twd.setup.units.system import LocalSystem
from twd.setup.units.systemd_manager import SystemdManager
from twd.setup.versions.folder import VersionProblem, VersionsFolder
from twd.setup.versions.houses import DetachedHouse, ServiceHouse, SystemTime
from twd.setup.versions.lock import alone
from twd.setup.versions.pruning import prune
from twd.setup.versions.takeover import Say, Takeover, TakeoverPolicy, UpgradeHouse
from twd.setup.versions.trial import VersionTrial, no_room

UNPACK_S: Final = 900.0


def installation() -> VersionsFolder:
    """The installation that this program belongs to."""
    folder = VersionsFolder.of_program()
    if folder is None:
        text = f"{sys.prefix} is no installation with versions: in a checkout, `git pull` and `make setup` renew it"
        raise CommandError(ExitCode.CANNOT_START, f"{text}; contrib/install.sh makes an installation that can")
    return folder


@contextmanager
def as_errors() -> Iterator[None]:
    """What keeps a version from being taken ends the command."""
    try:
        yield
    except VersionProblem as problem:
        raise CommandError(ExitCode.CANNOT_START, str(problem)) from None


def house_of(ctx: CliContext, folder: VersionsFolder) -> UpgradeHouse:
    """What runs here: a service of the system, or what `twd up -d` started."""
    machine = LocalSystem()
    unit = unit_of(machine, str(ctx.home.path))
    if unit is not None:
        manager = SystemdManager(unit[0], machine)
        if manager.state(unit[1]).active:
            return ServiceHouse(ctx.home, manager, unit[1])
    return DetachedHouse(ctx.home, folder)


def unpack_here(folder: VersionsFolder, bundle: WheelBundle) -> None:
    """Install packages as a version of their own, as `twd deploy` does elsewhere; one that is there stays."""
    if folder.is_complete(bundle.name):
        return
    command = [sys.executable, unpack.__file__, str(folder.prefix), bundle.name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        for part in bundle.parts():
            process.stdin.write(part)
    try:
        _, said = process.communicate(timeout=UNPACK_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
    if process.returncode:
        words = said.decode("utf-8", "replace").strip().splitlines() or ["it was not done in time"]
        raise VersionProblem(f"{bundle.name} cannot be installed: {words[-1][:300]}. The old version stays")


def try_then_take(ctx: CliContext, folder: VersionsFolder, version: str, settle_s: float, say: Say) -> None:
    """Try a version beside the one in use, and let it take over; raises VersionProblem when the old one is back."""
    house = house_of(ctx, folder)
    _try(ctx, folder, version, say)
    take(ctx, folder, house, version, settle_s, say)


def take(ctx: CliContext, folder: VersionsFolder, house: UpgradeHouse, version: str, settle_s: float, say: Say) -> None:
    """Let a version take over."""
    policy = TakeoverPolicy(settled_s=settle_s).with_models(model_bytes(running_settings(ctx)))
    Takeover(folder, house, policy, SystemTime(), say).take(version)


def prune_here(folder: VersionsFolder, keep: int, say: Say) -> bool:
    """Remove the versions that nobody needs any more, and say which; False if none was removed."""
    try:
        with alone(folder):
            pruned = prune(folder, keep)
    except VersionProblem as problem:
        say(str(problem))
        return False
    for line in pruned.lines():
        say(line)
    return bool(pruned.removed)


def _try(ctx: CliContext, folder: VersionsFolder, version: str, say: Say) -> None:
    source = ctx.config or ctx.loaded.source
    options = ("-c", os.path.abspath(source)) if source else ()
    trial = VersionTrial(folder.program(version), folder.program(folder.in_use()), options, ctx.environment)
    say(f"{version}: its doctor looks at this machine")
    trial.doctor()
    settings = running_settings(ctx)
    size = model_bytes(settings)
    reason = _no_room(ctx, settings, size)
    if reason:
        say(f"{version} is not tried beside {folder.in_use()}: {reason}")
        return
    say(f"{version} loads the models beside {folder.in_use()}, and is asked a question")
    trial.load(TakeoverPolicy().with_models(size).ready_s)


def _no_room(ctx: CliContext, settings: Settings, size: int) -> str:
    from twd.engine.host_memory.limits import available_bytes

    joined = (ctx.home.path / FILE_NAME).is_file()
    return no_room(settings, size, available_bytes(), joined)


def model_bytes(settings: Settings) -> int:
    """How large the files of all models are."""
    paths = [model.path for model in settings.models.values()] + [one.path for one in settings.drafters if one.path]
    return sum(Path(path).stat().st_size for path in paths if Path(path).is_file())
