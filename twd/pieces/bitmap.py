"""Which units of a file there are: a set of small numbers that packs into bytes."""

from collections.abc import Iterable, Iterator


class Bitmap:
    """So many bits, the first one highest in the first byte, as BitTorrent packs them."""

    def __init__(self, length: int, data: bytes = b"") -> None:
        """`data` of another length than the bits need is cut or filled up; bits behind the end do not count."""
        self.length = length
        needed = -(-length // 8)
        self.data = bytearray(data[:needed].ljust(needed, b"\0"))
        if length % 8 and self.data:
            self.data[-1] &= 0xFF << (8 - length % 8) & 0xFF
        self.count = sum(byte.bit_count() for byte in self.data)

    @classmethod
    def full(cls, length: int) -> "Bitmap":
        """All bits set."""
        return cls(length, b"\xff" * (-(-length // 8)))

    @classmethod
    def of(cls, length: int, indexes: Iterable[int]) -> "Bitmap":
        """These bits set."""
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
        """Set a bit; whether it was not set before."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        if index in self:
            return False
        self.data[index >> 3] |= 0x80 >> (index & 7)
        self.count += 1
        return True

    def discard(self, index: int) -> None:
        """Take a bit back."""
        if index in self:
            self.data[index >> 3] &= ~(0x80 >> (index & 7))
            self.count -= 1

    def has_all(self, indexes: Iterable[int]) -> bool:
        """Whether all of these are set."""
        return all(index in self for index in indexes)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.count == self.length
