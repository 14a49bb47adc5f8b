"""The checksum of POSIX's cksum, which every system has."""

from typing import Final

_POLYNOMIAL: Final = 0x04C11DB7


def cksum(content: bytes) -> int:
    """Return the checksum of these bytes."""
    length, tail = len(content), bytearray()
    while length:
        tail.append(length & 0xFF)
        length >>= 8
    crc = 0
    for byte in content + bytes(tail):
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ _POLYNOMIAL if crc & 0x80000000 else crc << 1
            crc &= 0xFFFFFFFF
    return crc ^ 0xFFFFFFFF
