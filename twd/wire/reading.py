"""Bytes that anybody may have written, as a value: what makes no sense is None, never a fault."""

from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

NONSENSE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)
"""All that reading JSON can raise; bytes that are no UTF-8 are no MsgspecError."""


def read_as(kind: type[T], value: bytes | str) -> T | None:
    """JSON that should hold this; None for anything else."""
    try:
        return msgspec.json.decode(value, type=kind)
    except NONSENSE:
        return None
