"""FNV-1a with 64 bits, a hundred times faster than byte by byte. llama.cpp's RPC names the cached tensors of a worker
by this hash.

Each step depends on the step before: hash = (hash ^ byte) * prime. The XOR changes only the lowest 8 bits. These bits
are computed first, bit by bit, for many bytes at once: each bit is a running parity of bits that are already known.
Then the rest of the hash is one sum of products.
"""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

BASIS: Final = 0xCBF29CE484222325
PRIME: Final = 0x100000001B3
_MASK: Final = (1 << 64) - 1
_BLOCK: Final = 1 << 16
_READ: Final = 1 << 22
_WORD: Final = 64
_LOW_PRIME: Final = np.uint8(PRIME & 0xFF)
_ONE: Final = np.uint8(1)

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]


def fnv1a(data: bytes, before: int = BASIS) -> int:
    """The hash of `data`; with `before`, the hash of earlier bytes, the hash of both together."""
    octets: Bytes = np.frombuffer(data, np.uint8)
    for at in range(0, len(octets), _BLOCK):
        before = _through(before, octets[at : at + _BLOCK])
    return before


def file_fnv1a(path: Path) -> int:
    """The hash of a file's bytes."""
    found = BASIS
    with path.open("rb") as file:
        while data := file.read(_READ):
            found = fnv1a(data, found)
    return found


def _through(before: int, octets: Bytes) -> int:
    count, low = len(octets), before & 0xFF
    mixed = _mixed(low, np.pad(octets, (0, -count % _WORD)))[:count]
    lows = np.concatenate([np.array([low], np.uint8), mixed[:-1] * _LOW_PRIME])
    added: Words = (mixed.astype(np.int64) - lows).view(np.uint64)
    powers = _powers()[-count:]
    return (before * int(powers[0]) + int(np.dot(added, powers))) & _MASK


def _mixed(low: int, octets: Bytes) -> Bytes:
    """For each byte, the lowest byte of the hash after the XOR with it, before the multiplication."""
    mixed = np.zeros(len(octets), np.uint8)
    for bit in range(8):
        place = np.uint8(bit)
        flips = octets >> place
        flips[1:] ^= ((mixed * _LOW_PRIME) >> place)[:-1]
        flips &= _ONE
        flips[0] ^= np.uint8(low >> bit & 1)
        mixed |= _running_parity(flips) << place
    return mixed


def _running_parity(bits: Bytes) -> Bytes:
    """For each bit, the parity of it and all bits before it."""
    words: Words = np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64)
    for step in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(step)
    odd = np.bitwise_xor.accumulate(words >> np.uint64(_WORD - 1))
    words[1:] ^= np.uint64(0) - odd[:-1]
    return np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")


@cache
def _powers() -> Words:
    """Powers of the prime, the highest first; the last one is the prime itself."""
    found, power = np.empty(_BLOCK, np.uint64), 1
    for at in range(_BLOCK):
        power = power * PRIME & _MASK
        found[_BLOCK - 1 - at] = power
    return found
