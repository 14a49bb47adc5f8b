"""Files that are written for others to read, and carry a checksum: what people changed is never written over."""

import hashlib
import re
from typing import Final

WHO: Final = "Written by `twd service install`; change it in a drop-in, not here. Checksum"
_MARK: Final = re.compile(rf"{re.escape(WHO)}: ([0-9a-f]{{64}})")


def marked(text: str) -> str:
    """Return a unit or a property list with the checksum of everything else in it."""
    mark = f"{WHO}: {_checksum(text)}"
    if text.startswith("<?xml"):
        first, _, rest = text.partition("\n")
        return f"{first}\n<!-- {mark} -->\n{rest}"
    return f"# {mark}\n{text}"


def changed_by_hand(text: str) -> bool:
    """Whether somebody else wrote this file, or changed it since."""
    found = _MARK.search(text)
    if found is None:
        return True
    rest = "".join(line for line in text.splitlines(keepends=True) if WHO not in line)
    return found[1] != _checksum(rest)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
