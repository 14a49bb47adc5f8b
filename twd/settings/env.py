"""Environment variables that override single settings: TWD_ and the setting's path in capitals."""

from collections.abc import Iterator, Mapping

from msgspec import inspect as shape

from twd.settings.errors import Problem, SettingPlace, nearest
from twd.settings.legacy import RETIRED_KEYS
from twd.settings.model import Settings
from twd.settings.tree import Path, SettingNode
from twd.settings.values import plain

PREFIX = "TWD_"
NOT_SETTINGS = frozenset({"TWD_CONFIG", "TWD_EDGE_PUBLISH", "TWD_BUS_PUBLISH", "TWD_MODELS", "TWD_JOIN_TOKEN"})
"""Where the settings are, and what `deploy/nats/compose.yaml` reads, whose variables are often exported."""
FREE_PREFIXES = ("TWD_TEST_",)


def variables() -> dict[str, Path]:
    """Each variable with the setting that it overrides."""
    table = {PREFIX + "_".join(path).upper(): path for path in leaves(shape.type_info(Settings))}
    return {**table, "TWD_TOKEN": ("edge", "token")}


def leaves(type_: shape.Type, above: Path = ()) -> Iterator[Path]:
    """The paths of all settings that no list or name leads to."""
    inner = plain(type_).type
    if not isinstance(inner, shape.StructType):
        yield above
        return
    for field in inner.fields:
        yield from leaves(field.type, (*above, field.name))


def overrides(env: Mapping[str, str], folder: str) -> tuple[dict[Path, SettingNode], list[Problem], list[str]]:
    """The settings that the environment gives, what is wrong with it, and hints."""
    table = variables()
    given: dict[Path, SettingNode] = {}
    problems: list[Problem] = []
    hints: list[str] = []
    retired = {PREFIX + key.replace(".", "_").upper(): why for key, why in RETIRED_KEYS.items()}
    for name in sorted(name for name in env if name.startswith(PREFIX)):
        if name in NOT_SETTINGS or name.startswith(FREE_PREFIXES) or not env[name].strip():
            continue
        place = SettingPlace(name, folder=folder)
        if name in retired:
            hints.append(f"{name} is not read: {retired[name]}")
        elif name not in table:
            _unknown(name, place, table, problems, hints)
        elif table[name] in given and given[table[name]].value != env[name]:
            other = given[table[name]].place.source
            problems.append(Problem(place=place, found=f"differs from {other}, which means the same: set one of them"))
        else:
            given[table[name]] = SettingNode(value=env[name], place=place, loose=True)
    return given, problems, hints


def _unknown(
    name: str, place: SettingPlace, table: Mapping[str, Path], problems: list[Problem], hints: list[str]
) -> None:
    sections = {f"{PREFIX}{path[0].upper()}_" for path in table.values() if len(path) > 1}
    in_section = name.startswith(tuple(sections))
    names = [known.removeprefix(PREFIX) for known in table]
    best = nearest(name.removeprefix(PREFIX), names, 0.6 if in_section else 0.8)
    if in_section or best:
        problems.append(Problem(place=place, found="no setting has this name", nearest=best and PREFIX + best))
    else:
        hints.append(f"{name} is no setting; twd does not read it")
