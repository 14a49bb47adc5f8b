"""Finds the configuration and makes Settings of it: file, then environment, checked, each with its place."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import inspect as shape

from twd.kit import settings_env as environment
from twd.kit.settings import Settings
from twd.kit.settings_check import Checker
from twd.kit.settings_errors import ConfigError, Place, Problem
from twd.kit.settings_yaml import BYTES_MAX, Node, parse_yaml


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Settings, and where they come from."""

    settings: Settings
    source: Path | None
    hints: list[str]
    overridden: dict[str, str]
    """Key -> the environment variable that gave it."""
    places: dict[str, Place]
    """Key -> where it was given; what is missing here is a default."""


def load_settings(path: str | None, env: Mapping[str, str], cwd: Path, home: Path) -> Loaded:
    """The settings of this installation; `path` is what -c named. Raises ConfigError with all that is wrong."""
    source = find_source(path, env, cwd, home)
    tree, problems = read_file(source, env) if source else (Node(value={}, place=Place("defaults")), [])
    given, env_problems, hints = environment.overrides(env, str(cwd))
    for setting, leaf in given.items():
        environment.put(tree, setting, leaf)
    checker = Checker(str(home))
    settings = checker.build(tree, shape.type_info(Settings))
    problems = [*problems, *env_problems, *checker.problems]
    if problems or not isinstance(settings, Settings):
        raise ConfigError(sorted(problems, key=lambda problem: (problem.place.source in env, problem.place.line)))
    if "home" not in checker.given:
        settings = msgspec.structs.replace(settings, home=str(home / ".twd"))
    overridden = {key: place.source for key, place in checker.given.items() if place.source in env}
    return Loaded(settings=settings, source=source, hints=hints, overridden=overridden, places=checker.given)


def find_source(path: str | None, env: Mapping[str, str], cwd: Path, home: Path) -> Path | None:
    """The file to read: -c, TWD_CONFIG, ./twd.yaml, ./configs/cluster.yaml, config.yaml in the state folder."""
    for named, by in ((path, "-c"), (env.get("TWD_CONFIG"), "TWD_CONFIG")):
        if named:
            return _named(named, by, cwd, home)
    state = _absolute(env.get("TWD_HOME") or "~/.twd", cwd, home)
    candidates = (cwd / "twd.yaml", cwd / "configs" / "cluster.yaml", state / "config.yaml")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _named(named: str, by: str, cwd: Path, home: Path) -> Path:
    source = _absolute(named, cwd, home)
    if not source.exists():
        raise ConfigError.at(Place(str(source)), f"no such file ({by} names it)", "a YAML file")
    return source


def _absolute(text: str, cwd: Path, home: Path) -> Path:
    if text == "~" or text.startswith("~/"):
        return home / text[2:]
    return cwd / text


def read_file(source: Path, env: Mapping[str, str]) -> tuple[Node, list[Problem]]:
    """The tree of a configuration file and what is wrong in it."""
    place = Place(str(source), folder=str(source.parent))
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
        raise ConfigError.at(Place(str(source), line, 1), "bytes that are not UTF-8", "a text file in UTF-8") from error
    return parse_yaml(text, place, env)
