"""Finds the configuration and makes Settings of it: file, credentials, environment; checked, each with its place."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import inspect as shape

from twd.settings.check import Checker
from twd.settings.credentials import credentials
from twd.settings.env import overrides
from twd.settings.errors import ConfigError, Problem, SettingPlace
from twd.settings.identity import with_identity
from twd.settings.legacy import old_variables, translate
from twd.settings.model import Settings
from twd.settings.tree import SettingNode, put_node
from twd.settings.yaml_tree import BYTES_MAX, parse_yaml


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Settings, and where they come from."""

    settings: Settings
    source: Path | None
    hints: list[str]
    places: dict[str, SettingPlace]
    """Key -> where it was given; what is missing here is a default."""


def load_settings(path: str | None, env: Mapping[str, str], cwd: Path, home: Path) -> Loaded:
    """The settings of this installation; `path` is what -c named. Raises ConfigError with all that is wrong."""
    source, hints = find_source(path, env, cwd, home)
    tree, problems = read_file(source, env) if source else (SettingNode(value={}, place=SettingPlace("defaults")), [])
    by_old_key, by_key, old_hints = old_variables(env, str(cwd))
    put_all(tree, by_old_key)
    old_problems, file_hints = translate(tree)
    put_all(tree, by_key)
    handed, handed_problems = credentials(env)
    put_all(tree, handed)
    given, env_problems, env_hints = overrides(env, str(cwd))
    put_all(tree, given)
    checker = Checker(str(home))
    settings = checker.build(tree, shape.type_info(Settings))
    problems += [*old_problems, *handed_problems, *env_problems, *checker.problems]
    if problems or not isinstance(settings, Settings):
        raise ConfigError(sorted(problems, key=lambda problem: (problem.place.source in env, problem.place.line)))
    if "home" not in checker.given:
        settings = msgspec.structs.replace(settings, home=str(home / ".twd"))
    settings = with_identity(settings, checker.given)
    return Loaded(
        settings=settings,
        source=source,
        hints=[*hints, *file_hints, *old_hints, *env_hints],
        places=checker.given,
    )


def put_all(tree: SettingNode, given: Mapping[tuple[str, ...], SettingNode]) -> None:
    """Sets each value at its place in the tree."""
    for setting, leaf in given.items():
        put_node(tree, setting, leaf)


def find_source(path: str | None, env: Mapping[str, str], cwd: Path, home: Path) -> tuple[Path | None, list[str]]:
    """The file to read, and hints: -c, TWD_CONFIG, ./twd.yaml, ./configs/cluster.yaml, HOME/.twd/config.yaml."""
    old_name = env.get("TIGHTWAD_CONFIG")
    for named, by in ((path, "-c"), (env.get("TWD_CONFIG"), "TWD_CONFIG"), (old_name, "TIGHTWAD_CONFIG")):
        if named:
            hints = ["TIGHTWAD_CONFIG is now TWD_CONFIG"] if by == "TIGHTWAD_CONFIG" else []
            return _named(named, by, cwd, home), hints
    state = _absolute(env.get("TWD_HOME") or "~/.twd", cwd, home)
    candidates = (cwd / "twd.yaml", cwd / "configs" / "cluster.yaml", state / "config.yaml")
    found = next((candidate for candidate in candidates if _is_there(candidate)), None)
    old_files = (cwd / "tightwad.yaml", home / ".tightwad" / "config.yaml")
    old = [f"{file} is not read by itself: name it with -c" for file in old_files if os.path.isfile(file)]
    return found, [] if found else old


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except PermissionError:  # reading it says so
        return True


def _named(named: str, by: str, cwd: Path, home: Path) -> Path:
    source = _absolute(named, cwd, home)
    if not source.exists():
        raise ConfigError.at(SettingPlace(str(source)), f"no such file ({by} names it)", "a YAML file")
    return source


def _absolute(text: str, cwd: Path, home: Path) -> Path:
    if text == "~" or text.startswith("~/"):
        return home / text[2:]
    return cwd / text


def read_file(source: Path, env: Mapping[str, str]) -> tuple[SettingNode, list[Problem]]:
    """The tree of a configuration file and what is wrong in it."""
    place = SettingPlace(str(source), folder=str(source.parent))
    try:
        with source.open("rb") as stream:
            data = stream.read(BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError.at(place, f"cannot be read ({error.strerror})", "a readable YAML file") from error
    if len(data) > BYTES_MAX:
        raise ConfigError.at(place, f"more than {BYTES_MAX // 1024} KiB", "a configuration file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError.at(
            SettingPlace(str(source), line, 1), "bytes that are not UTF-8", "a text file in UTF-8"
        ) from error
    return parse_yaml(text, place, env)
