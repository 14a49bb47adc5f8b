"""A join string in the settings becomes the address of the broker that it names."""

import stat
from pathlib import Path
from typing import Final

import msgspec

from twd.bus.join import read_join
from twd.settings.errors import ConfigError, SettingPlace
from twd.settings.model import Settings

_BYTES_MAX: Final = 4096
_EXPECTED: Final = "the line that `twd invite` printed on another machine"


def joined(settings: Settings, places: dict[str, SettingPlace]) -> Settings:
    """The settings with `bus.url`, `bus.token` and `bus.tls.fingerprint` of the join string, if there is one.

    `places` tells where each setting was given, and learns where these come from. Raises ConfigError.
    """
    bus = settings.bus
    if not (bus.join or bus.join_file):
        return settings
    place = places.get("bus.join") or places.get("bus.join_file") or SettingPlace("bus.join")
    try:
        join = read_join(bus.join or _read(Path(bus.join_file), place))
    except ValueError as error:
        raise ConfigError.at(place, f"{bus.join_file} holds no join string: {error}", _EXPECTED) from None
    for key in ("bus.url", "bus.token", "bus.tls.fingerprint"):
        places[key] = place
    tls = msgspec.structs.replace(bus.tls, fingerprint=join.fingerprint)
    bus = msgspec.structs.replace(bus, join="", join_file="", url=join.url, token=join.token, tls=tls)
    return msgspec.structs.replace(settings, bus=bus)


def _read(path: Path, place: SettingPlace) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError.at(place, f"{path} is no plain file", f"a file with {_EXPECTED}")
        with path.open("rb") as file:
            return file.read(_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        raise ConfigError.at(place, f"{path} cannot be read ({error.strerror})", f"a file with {_EXPECTED}") from None
