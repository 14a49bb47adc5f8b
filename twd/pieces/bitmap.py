"""A bitmap of the units of a file: a set of small numbers that packs into bytes."""

from collections.abc import Iterable, Iterator


class Bitmap:
    """A fixed number of bits; the first one is the highest bit of the first byte, as in BitTorrent."""

    def __init__(self, length: int, data: bytes = b"") -> None:
        """`data` of another length is cut or filled up with zeros; bits behind the end do not count."""
        self.length = length
        needed = -(-length // 8)
        self.data = bytearray(data[:needed].ljust(needed, b"\0"))
        if length % 8 and self.data:
            self.data[-1] &= 0xFF << (8 - length % 8) & 0xFF
        self.count = sum(byte.bit_count() for byte in self.data)

    @classmethod
    def full(cls, length: int) -> "Bitmap":
        """Return a bitmap with all bits set."""
        return cls(length, b"\xff" * (-(-length // 8)))

    @classmethod
    def of(cls, length: int, indexes: Iterable[int]) -> "Bitmap":
        """Return a bitmap with these bits set."""
        made = cls(length)
        for index in indexes:
            made.add(index)
        return made

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.length and bool(self.data[index >> 3] & 0x80 >> (index & 7))

    def __iter__(self) -> Iterator[int]:
        return (index for index in range(self.length) if index in self)

    def __len__(self) -> int:
        return self.length

    def add(self, index: int) -> bool:
        """Set a bit; returns whether it was not set before."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        if index in self:
            return False
        self.data[index >> 3] |= 0x80 >> (index & 7)
        self.count += 1
        return True

    def discard(self, index: int) -> None:
        """Clear a bit."""
        if index in self:
            self.data[index >> 3] &= ~(0x80 >> (index & 7))
            self.count -= 1

    def has_all(self, indexes: Iterable[int]) -> bool:
        """Return whether all of these bits are set."""
        return all(index in self for index in indexes)

    @property
    def complete(self) -> bool:
        """Whether all bits are set."""
        return self.count == self.length
