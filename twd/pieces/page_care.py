"""Reading for others without pushing out of memory what this machine works with."""

import os
from typing import Final

CAN_ASK: Final = hasattr(os, "RWF_NOWAIT") and hasattr(os, "preadv")
CAN_DROP: Final = hasattr(os, "posix_fadvise")


def is_cached(descriptor: int, offset: int) -> bool:
    """Whether a place of a file is in memory already; it is not read for that. True where nobody can tell."""
    if not CAN_ASK:
        return True
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) > 0
    except OSError:  # not in memory, or a file system that does not tell
        return False


def let_go(descriptor: int, offset: int, length: int) -> None:
    """The system may forget this stretch; what a process has mapped stays."""
    if CAN_DROP:
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)
