"""Settings that a service manager hands over as files (systemd: LoadCredential), one file for each setting.

A file is named after its setting, such as `edge.token`. Of a setting that is a path, the file itself is meant.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import inspect as shape

from twd.settings.env import variables
from twd.settings.errors import Problem, SettingPlace
from twd.settings.model import Settings
from twd.settings.tree import Path as SettingPath
from twd.settings.tree import SettingNode
from twd.settings.values import Plain, plain

FOLDER_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
BYTES_MAX: Final = 64 * 1024


def credentials(env: Mapping[str, str]) -> tuple[dict[SettingPath, SettingNode], list[Problem]]:
    """The settings that files of the service manager give, and what is wrong with them."""
    given: dict[SettingPath, SettingNode] = {}
    problems: list[Problem] = []
    folder = env.get(FOLDER_VARIABLE, "")
    for path in setting_paths() if os.path.isabs(folder) else ():
        file = Path(folder) / ".".join(path)
        place = SettingPlace(str(file), folder=folder)
        try:
            if file.is_file():
                given[path] = SettingNode(value=_value(file, path), place=place, loose=True)
        except (OSError, ValueError) as error:
            problems.append(Problem(place=place, key=".".join(path), found=f"cannot be read: {error}"))
    return given, problems


def setting_paths() -> list[SettingPath]:
    """Every setting that a credential can give: those that a variable can give, too."""
    return list(dict.fromkeys(variables().values()))


def _value(file: Path, path: SettingPath) -> str:
    if kind_of(path).path:
        return str(file)
    with file.open("rb") as stream:
        data = stream.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise ValueError(f"more than {BYTES_MAX // 1024} KiB")
    return data.decode().strip()


def kind_of(path: SettingPath) -> Plain:
    """The type of a setting."""
    kind = Plain(shape.type_info(Settings))
    for name in path:
        assert isinstance(kind.type, shape.StructType)
        kind = plain(next(field.type for field in kind.type.fields if field.name == name))
    return kind
