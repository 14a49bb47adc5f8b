"""What `twd join` left in the state folder: which installation this machine belongs to, and its name there."""

from pathlib import Path
from typing import Final

import msgspec

from twd.settings.broker import with_broker
from twd.settings.errors import ConfigError, SettingPlace
from twd.settings.model import Settings
from twd.wire.reading import NONSENSE

FILE_NAME: Final = "joined.json"
KEYS: Final = "keys"
VERSION: Final = 1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """This machine as a member of an installation; its seeds lie beside, in the folder `keys`."""

    version: int = VERSION
    node: str
    url: str
    """Where the broker is, as `bus.url`."""
    fingerprint: str
    """The SHA-256 of the installation's certificate."""
    roles: tuple[str, ...] = ()
    """What its token was for."""


def read_identity(home: Path) -> Identity | None:
    """Return the identity of the machine whose state folder is `home`; None if it never joined. Raises ConfigError."""
    path = home / FILE_NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        return None
    except OSError as error:
        why, mend = error.strerror, "a state folder of this user; TWD_HOME names another one"
        raise ConfigError.at(SettingPlace(str(path)), f"cannot be read ({why})", mend) from None
    except NONSENSE as error:
        mend = "what `twd join` wrote; move it away and join again"
        raise ConfigError.at(SettingPlace(str(path)), f"cannot be read ({error})", mend) from None
    if found.version > VERSION:
        place = SettingPlace(str(path))
        raise ConfigError.at(place, "was written by a newer version of twd", "that version, or a new `twd join`")
    return found


def with_identity(settings: Settings, places: dict[str, SettingPlace]) -> Settings:
    """The settings with the broker that this machine joined, unless they name another one.

    `places` tells where each setting was given, and learns where these come from. Raises ConfigError.
    """
    if settings.bus.url:
        return settings
    home = settings.home_dir
    identity = read_identity(home)
    if identity is None:
        return settings
    _check(settings, identity, places)
    place = SettingPlace(str(home / FILE_NAME))
    for key in ("bus.url", "bus.nkey_dir", "bus.tls.fingerprint", "node"):
        places[key] = place
    settings = with_broker(settings, identity.url, identity.fingerprint, nkey_dir=str(home / KEYS))
    return msgspec.structs.replace(settings, node=identity.node)


def _check(settings: Settings, identity: Identity, places: dict[str, SettingPlace]) -> None:
    """Refuse settings that say something else than the identity."""
    others = {"bus.host", "bus.token", "bus.nkey_file", "bus.nkey_dir", "bus.user", "bus.creds_file"}
    if given := sorted(others & places.keys()):
        text = f"this machine joined the installation at {identity.url}, whose broker it uses"
        raise ConfigError.at(places[given[0]], f"{given[0]}: {text}", "no such setting, or `twd leave` first")
    if settings.node and settings.node.partition(".")[0].lower() != identity.node:
        text = f"node: {settings.node}, but this machine joined as {identity.node}"
        raise ConfigError.at(places.get("node", SettingPlace("node")), text, "that name, or `twd leave` first")
