"""BitTorrent v2's hash tree (BEP 52): leaves of 16 KiB, and the layer at which each hash covers 1 MiB."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import Final

BLOCK: Final = 16 * 1024
UNIT: Final = 1024 * 1024
"""Bytes of a unit: it is checked, shared and pulled as one."""
LEVELS: Final = 6
"""Tree levels between a leaf and the hash of a unit."""
HASH_BYTES: Final = 32


def units_of(size: int) -> int:
    """Return the number of units of a file with this size in bytes."""
    return -(-size // UNIT)


def unit_bytes(size: int, index: int) -> int:
    """Return the length of one unit in bytes; the last one may be shorter."""
    return min(UNIT, size - index * UNIT)


def levels_of(count: int) -> int:
    """Return the height of the smallest tree with this many leaves."""
    return (count - 1).bit_length()


def fold(nodes: Sequence[bytes], pad: bytes, levels: int) -> bytes:
    """Return the hash that many levels above these nodes; `pad` replaces missing nodes."""
    row = list(nodes)
    for _ in range(levels):
        if len(row) % 2:
            row.append(pad)
        row = [sha256(left + right).digest() for left, right in zip(row[::2], row[1::2], strict=True)]
        pad = sha256(pad + pad).digest()
    return row[0]


@cache
def _no_unit() -> bytes:
    """Return the hash of a unit that is completely behind the end of the file."""
    pad = bytes(HASH_BYTES)
    for _ in range(LEVELS):
        pad = sha256(pad + pad).digest()
    return pad


def unit_hash(data: bytes | bytearray | memoryview, file_size: int) -> bytes:
    """Return the hash of one unit. The tree of a file with one unit is only as high as its leaves need."""
    view = memoryview(data)
    leaves = [sha256(view[at : at + BLOCK]).digest() for at in range(0, len(view), BLOCK)]
    levels = LEVELS if file_size > UNIT else levels_of(len(leaves))
    return fold(leaves, bytes(HASH_BYTES), levels)


def root_of(layer: Sequence[bytes]) -> bytes:
    """Return the root of a layer of unit hashes; it names the file in the swarm and is BitTorrent's `pieces root`."""
    return fold(layer, _no_unit(), levels_of(len(layer)))
