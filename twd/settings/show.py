"""Settings as people see them: every value with where it comes from, what looks wrong, and YAML to keep."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect as shape

from twd.net.addresses import is_loopback
from twd.settings.errors import ConfigError, Problem, SettingPlace
from twd.settings.load import Loaded, load_settings
from twd.settings.model import Settings
from twd.settings.types import SettingSection
from twd.settings.values import Plain, plain
from twd.settings.yaml_tree import Dumper

MASK = "********"
USER_INFO = re.compile(r"(?<=://)[^/@\s,]+(?=@)")
BROKER_USER_INFO = re.compile(r"(?:(?<=://)|(?<=,)|^)[^/@\s,]+(?=@)")
"""Brokers stand in a list with commas, and may go without a scheme."""
SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS", re.IGNORECASE)


class ShownSetting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as it stands."""

    key: str
    value: Any
    """As YAML would have it; a secret is masked."""
    source: str
    """A file with line and column, an environment variable, or `default`."""
    about: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of the configuration found."""

    loaded: Loaded | None
    problems: tuple[Problem, ...]
    """These keep twd from starting."""
    warnings: tuple[Problem, ...]
    """These may be meant so."""
    hints: tuple[str, ...]


class GivenSetting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting with the place that gave it, for whoever hands it on."""

    key: str
    source: str
    text: str
    """As a variable would hold it."""
    secret: bool


class _Leaf(msgspec.Struct, frozen=True):
    key: str
    value: Any
    kind: Plain


def describe(loaded: Loaded) -> list[ShownSetting]:
    """Every setting with its value and where it comes from."""
    return [
        ShownSetting(
            key=leaf.key,
            value=_masked(leaf),
            source=str(loaded.places.get(leaf.key, "default")),
            about=leaf.kind.about,
        )
        for leaf in _leaves(loaded.settings, Plain(shape.type_info(Settings)), "")
    ]


def given_by(loaded: Loaded, sources: Collection[str]) -> list[GivenSetting]:
    """The settings that come from one of these sources, such as variables of the environment."""
    return [
        GivenSetting(key=leaf.key, source=place.source, text=_as_text(leaf.value), secret=leaf.kind.secret)
        for leaf in _leaves(loaded.settings, Plain(shape.type_info(Settings)), "")
        if (place := loaded.places.get(leaf.key)) and place.source in sources
    ]


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def check_settings(path: str | None, env: Mapping[str, str], cwd: Path, home: Path) -> Report:
    """Loads the configuration and looks for what is likely to fail later."""
    try:
        loaded = load_settings(path, env, cwd, home)
    except ConfigError as error:
        return Report(loaded=None, problems=error.problems, warnings=(), hints=())
    warnings = (*_missing_files(loaded), *_open_doors(loaded))
    return Report(loaded=loaded, problems=(), warnings=warnings, hints=tuple(loaded.hints))


def dump_settings(settings: Settings) -> str:
    """YAML that loads as these settings; defaults are left out."""
    return yaml.dump(_changed(settings), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def _leaves(value: Any, kind: Plain, key: str) -> Iterator[_Leaf]:
    match kind.type, value:
        case shape.StructType() as struct, SettingSection():
            for field in struct.fields:
                inner = plain(field.type)
                yield from _leaves(getattr(value, field.name), inner, f"{key}.{field.name}" if key else field.name)
        case shape.DictType() as mapping, dict() if value:
            for name, item in value.items():
                yield from _leaves(item, plain(mapping.value_type), f"{key}.{name}")
        case shape.VarTupleType() as sequence, tuple() if value and isinstance(value[0], SettingSection):
            for number, item in enumerate(value):
                yield from _leaves(item, plain(sequence.item_type), f"{key}[{number}]")
        case _:
            yield _Leaf(key, list(value) if isinstance(value, tuple) else value, kind)


def _masked(leaf: _Leaf) -> Any:
    if leaf.key == "engine.extra_args":
        return list(_masked_arguments(leaf.value))
    variable = leaf.key.removeprefix("engine.env.")
    secret = leaf.kind.secret or (variable != leaf.key and SECRET_NAME.search(variable))
    if not isinstance(leaf.value, str) or not leaf.value:
        return leaf.value
    user_info = BROKER_USER_INFO if leaf.key == "bus.url" else USER_INFO
    return MASK if secret else user_info.sub(MASK, leaf.value)


def _masked_arguments(words: Sequence[str]) -> Iterator[str]:
    """Without what follows a name like --api-key."""
    hides = False
    for word in words:
        name, given, _ = word.partition("=")
        secret = word.startswith("-") and SECRET_NAME.search(name)
        yield MASK if hides else f"{name}={MASK}" if secret and given else word
        hides = bool(secret and not given and not hides)


def _missing_files(loaded: Loaded) -> Iterator[Problem]:
    for leaf in _leaves(loaded.settings, Plain(shape.type_info(Settings)), ""):
        place = loaded.places.get(leaf.key)
        if place and leaf.kind.path and leaf.value and leaf.key != "home" and not Path(leaf.value).exists():
            found = f"no such file: {leaf.value}"
            yield Problem(place=place, key=leaf.key, found=found, expected="a file on each machine that uses it")


def _open_doors(loaded: Loaded) -> Iterator[Problem]:
    settings = loaded.settings
    for name, section, advice in (
        ("edge", settings.edge, "edge.token, keys made by `twd key`, or edge.allow_unauthenticated: true"),
        ("agent", settings.agent, "agent.token"),
        ("swarm", settings.swarm, "swarm.token"),
    ):
        told = name == "edge" and settings.edge.allow_unauthenticated
        if not section.token and not told and section.host and not is_loopback(section.host):
            place = loaded.places.get(f"{name}.host", SettingPlace("default"))
            yield Problem(place=place, key=f"{name}.host", found=f"{section.host} without a token", expected=advice)


def _changed(section: SettingSection) -> dict[str, Any]:
    fields = msgspec.structs.fields(type(section))
    values = {field.name: getattr(section, field.name) for field in fields}
    return {field.name: _as_yaml(values[field.name]) for field in fields if values[field.name] != _default(field)}


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _as_yaml(value: Any) -> Any:
    match value:
        case SettingSection():
            return _changed(value)
        case dict():
            return {name: _as_yaml(item) for name, item in value.items()}
        case tuple():
            return [_as_yaml(item) for item in value]
        case str():
            return value.replace("${", "$${")
    return value
