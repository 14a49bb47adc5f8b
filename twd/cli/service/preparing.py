"""Makes the plan of a service from settings and machine, and refuses what could not run, before anything is changed."""

import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.cli.common.context import CliContext
from twd.cli.up import check_door
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.credentials import FOLDER_VARIABLE
from twd.settings.env import variables
from twd.settings.errors import ConfigError
from twd.settings.load import Loaded, load_settings
from twd.settings.model import Settings
from twd.settings.show import given_by
from twd.setup.units.kept_secrets import kept_secrets
from twd.setup.units.plan import AGENT, FULL, SYSTEM_STATE, UnitPlaces, UnitPlan, launchd_places, systemd_places
from twd.setup.units.system import LocalSystem
from twd.setup.versions.folder import VersionsFolder

HOMES: Final = ("/home", "/root", "/Users", "/var/root")
NOT_HANDED_ON: Final = ("home",)


@dataclass(frozen=True)
class PreparedService:
    """Everything that an installation of a service writes."""

    plan: UnitPlan
    places: UnitPlaces
    secrets: Mapping[str, str]
    """Secrets of this terminal's environment, which go into files of their own."""
    config: Path | None
    """The settings file that the service reads."""
    copied_from: Path | None = None
    """Its original, where the service of the machine gets a copy."""


def prepare(ctx: CliContext, machine: LocalSystem, system: bool, config: str | None, agent: bool) -> PreparedService:
    """Read the settings as this terminal sees them, and plan a service that runs by them anywhere."""
    name = AGENT if agent else FULL
    places = (launchd_places if machine.is_mac else systemd_places)(name, system, machine.home, machine.root)
    loaded = _load(ctx, machine, config or ctx.config, places)
    home = str(SYSTEM_STATE) if system and "home" not in loaded.places else loaded.settings.home
    environment, secrets = _handed_on(ctx, loaded)
    source = loaded.source.absolute() if loaded.source else None
    target = _config_of_service(source, places) if system and source else source
    if not agent:
        check_door(loaded.settings)
    program, first = own_program()
    kept = {**kept_secrets(places.credentials), **{name: places.credentials / name for name in secrets}}
    files = [program, *_model_files(loaded.settings, home)]
    if system:
        _check_same(loaded, source, environment, home)
        _check_files(files)
    plan = UnitPlan(
        name=name,
        system=system,
        program=program,
        arguments=(*first, *(("-c", str(target)) if target else ()), "up", *(("agent",) if agent else ())),
        reload=(*first, "service", "reload"),
        home=home,
        environment=environment,
        credentials={name: str(file) for name, file in kept.items()},
        cards=machine.has_cards,
        groups=machine.card_groups if machine.has_cards else (),
        reads_homes=any(Path(file).is_relative_to(folder) for file in files for folder in HOMES),
        writes=tuple(folder for folder in loaded.settings.agent.model_dirs if Path(folder).is_dir()),
    )
    return PreparedService(plan, places, secrets, target, source if target != source else None)


def _load(ctx: CliContext, machine: LocalSystem, config: str | None, places: UnitPlaces) -> Loaded:
    """Read the settings, with the secrets that an earlier installation has kept."""
    try:
        environment = {FOLDER_VARIABLE: str(places.credentials), **ctx.environment}
        return load_settings(config, environment, Path.cwd(), machine.home)
    except ConfigError as error:
        raise CommandError(ExitCode.CONFIG, str(error)) from None


def own_program() -> tuple[str, tuple[str, ...]]:
    """Return the program that a service starts, and its first arguments. Of many versions, the one in use then."""
    versions = VersionsFolder.of_program()
    if versions is not None:
        return str(versions.program()), ()
    program = Path(sys.executable).with_name("twd")
    if program.is_file():
        return str(program), ()
    return sys.executable, ("-P", "-m", "twd")


def _handed_on(ctx: CliContext, loaded: Loaded) -> tuple[dict[str, str], dict[str, str]]:
    """Return this terminal's settings: those that are no secrets as variables, and secrets by their names."""
    plain: dict[str, str] = {}
    secrets: dict[str, str] = {}
    names = {".".join(path): name for name, path in variables().items() if name != "TWD_TOKEN"}
    for given in given_by(loaded, ctx.environment.keys()):
        if given.key in NOT_HANDED_ON:
            continue
        if given.secret:
            secrets[given.key] = given.text
        elif given.key in names:
            plain[names[given.key]] = given.text
        else:  # an older name for a setting that no variable of ours gives
            plain[given.source] = ctx.environment[given.source]
    return plain, secrets


def _config_of_service(source: Path, places: UnitPlaces) -> Path:
    return source if source.is_relative_to(places.config) else places.config / "twd.yaml"


def _model_files(settings: Settings, home: str) -> list[str]:
    files = [model.path for model in settings.models.values()]
    files += [file for drafter in settings.drafters for file in (drafter.path, drafter.head) if file]
    return [file for file in files if not Path(file).is_relative_to(home)]


def _check_files(files: list[str]) -> None:
    """The service runs as a user of its own, who reads only what everybody reads."""
    for file in files:
        if hidden := next(_hidden(Path(file)), None):
            text = f"a service of the machine runs as a user of its own, who could not read {file}: {hidden} is closed"
            mend = f"move it, for a model to {SYSTEM_STATE}/models, or say --user"
            raise CommandError(ExitCode.CANNOT_START, f"{text} to others; {mend}")


def _hidden(file: Path) -> Iterator[Path]:
    """Yield what keeps other users from reading a file; a file that is missing is reported when it is needed."""
    for path in (*reversed(file.parents), file):
        try:
            mode = path.stat().st_mode
        except OSError:
            return
        wanted = stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        if not mode & wanted:
            yield path


def _check_same(loaded: Loaded, source: Path | None, environment: Mapping[str, str], home: str) -> None:
    """Whether the settings mean the same to another user, elsewhere: relative paths and `~` would not."""
    if source is None:
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        copy = Path(elsewhere) / source.name
        copy.write_bytes(source.read_bytes())
        others = load_settings(str(copy), environment, copy.parent, Path(home)).settings
    differs = [where for where, ours, theirs in _paths(loaded.settings, others) if ours != theirs]
    if differs:
        text = f"{source}: {', '.join(differs)} would lead elsewhere for the user of the service"
        raise CommandError(ExitCode.CONFIG, f"{text}; write whole paths, without ~")


def _paths(ours: Settings, theirs: Settings) -> Iterator[tuple[str, str, str]]:
    for name, model in ours.models.items():
        yield f"models.{name}.path", model.path, theirs.models[name].path
    for number, drafter in enumerate(ours.drafters):
        yield f"drafters[{number}].path", drafter.path, theirs.drafters[number].path
        yield f"drafters[{number}].head", drafter.head, theirs.drafters[number].head
    yield "agent.model_dirs", ",".join(ours.agent.model_dirs), ",".join(theirs.agent.model_dirs)
