"""What Python has compiled here of twd and of all that it needs, so that no machine compiles it anew.

Each file is bound to the hash of its source: a machine keeps what fits its own sources, and leaves out the rest.
"""

import importlib.util
import os
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from twd.cli.deploy.unpack import header_of

HEADER: Final = struct.Struct("<4sIII")
"""Magic number, flags, time and size of the source: of a file that is bound to its source's time."""


def bound_to_source(source: Path) -> bytes | None:
    """Return what is compiled of a source here, bound to its hash; None where that is missing or out of date."""
    try:
        compiled = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        stat = source.stat()
        now = (importlib.util.MAGIC_NUMBER, 0, int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
        is_current = HEADER.unpack_from(compiled) == now
        return header_of(source) + compiled[HEADER.size :] if is_current else None
    except (OSError, struct.error):
        return None


def pack_bytecode(sources: Iterable[tuple[str, Path]], target: Path) -> None:
    """Write a zip with what is compiled of these sources, each by its place in a folder of packages."""
    draft = target.with_suffix(f".{os.getpid()}")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for place, source in sources:
            if (data := bound_to_source(source)) is not None:
                cached = importlib.util.cache_from_source(place)
                archive.writestr(zipfile.ZipInfo(cached), data, zipfile.ZIP_DEFLATED, 1)
    draft.replace(target)
