"""Reading for others without pushing out of memory what this machine works with."""

import os
from typing import Final

from twd.engine.host_memory.page_cache import warm_parts
from twd.pieces.bitmap import Bitmap
from twd.pieces.tree import UNIT, units_of

CAN_DROP: Final = hasattr(os, "posix_fadvise")


def warm_units(descriptor: int, size: int) -> Bitmap:
    """The units of a file that are in memory now, whole or in part; none is read for that."""
    return Bitmap.of(units_of(size), warm_parts(descriptor, size, UNIT))


def let_go(descriptor: int, offset: int, length: int) -> None:
    """The system may forget this stretch; what a process has mapped stays."""
    if CAN_DROP:
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)
