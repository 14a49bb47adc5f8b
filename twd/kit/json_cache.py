"""What was found out once, kept as JSON: a file that cannot be read or written costs that work again, and no more."""

import logging
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec

from twd.private_file import write_private
from twd.wire.reading import NONSENSE

_Kept = TypeVar("_Kept", bound=msgspec.Struct)
_log = logging.getLogger("twd.kept")


def file_name(kind: str, about: object) -> str:
    """What a finding is called: another name under other circumstances."""
    return f"{kind}-{sha256(msgspec.json.encode(about)).hexdigest()[:32]}.json"


def recall(path: Path, kind: type[_Kept]) -> _Kept | None:
    """What was kept; None where nothing was, or where it makes no sense."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, *NONSENSE) as error:
        _log.warning("%s is no use, so it is made anew: %s", path, error)
        return None


def remember(path: Path, what: msgspec.Struct) -> None:
    """Keep it, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, msgspec.json.encode(what))
    except OSError as error:
        _log.warning("%s cannot be kept: %s", path, error)
