"""Keeps files that are read for other machines from pushing this machine's own data out of the page cache."""

import os
from typing import Final

from twd.engine.host_memory.page_cache import warm_parts
from twd.pieces.bitmap import Bitmap
from twd.pieces.tree import UNIT, units_of

CAN_DROP: Final = hasattr(os, "posix_fadvise")


def warm_units(descriptor: int, size: int) -> Bitmap:
    """Return the units of a file that are in the page cache, whole or in part, without reading any."""
    return Bitmap.of(units_of(size), warm_parts(descriptor, size, UNIT))


def let_go(descriptor: int, offset: int, length: int) -> None:
    """Drop this range from the page cache; pages that a process has mapped stay."""
    if CAN_DROP:
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)
