"""Checks the bytes of a file: by the hash of each MiB, or of each piece where a manifest has no tree."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from twd.pieces.manifest import Manifest
from twd.pieces.tree import UNIT, unit_hash
from twd.wire.failures import FailureCode, TwdError

Bytes = bytes | bytearray | memoryview


@dataclass
class Checks:
    """The hashes of a file's units; None: not known yet.

    A file that is pulled from a hub has no hashes at first: the machine that reads it there publishes them one by one.
    """

    size: int
    unit: int
    digests: list[bytes | None]
    tree: bool = True

    @classmethod
    def of(cls, manifest: Manifest) -> "Checks":
        """Return the hashes of a manifest."""
        if manifest.root:
            return cls(manifest.total_size, UNIT, list(manifest.layer_hashes()))
        digests: Sequence[bytes | None] = [bytes.fromhex(piece.sha256) for piece in manifest.pieces]
        return cls(manifest.total_size, manifest.piece_size, list(digests), tree=False)

    @classmethod
    def unknown(cls, size: int) -> "Checks":
        """Return the checks of a file whose hashes are not known yet."""
        return cls(size, UNIT, [None] * -(-size // UNIT))

    def __len__(self) -> int:
        return len(self.digests)

    def place(self, index: int) -> tuple[int, int]:
        """Return offset and length of a unit in bytes."""
        begin = index * self.unit
        return begin, min(self.unit, self.size - begin)

    def digest(self, data: Bytes) -> bytes:
        """Return the hash of a unit's bytes."""
        return unit_hash(data, self.size) if self.tree else sha256(data).digest()

    def holds(self, index: int, data: Bytes) -> bool:
        """Return whether these are the unit's bytes; False if its hash is unknown."""
        wanted = self.digests[index]
        return wanted is not None and len(data) == self.place(index)[1] and self.digest(data) == wanted

    def learn(self, index: int, digest: bytes) -> None:
        """Store the hash of a unit from a trusted source; one that differs from the known hash is refused."""
        if self.digests[index] not in (None, digest):
            text = f"two hashes were told for MiB {index} of one file; it changed where it comes from: pull it again"
            raise TwdError(FailureCode.BAD_REQUEST, text)
        self.digests[index] = digest

    def of_range(self, begin: int, end: int) -> range:
        """Return the units that contain bytes of [begin, end)."""
        return range(begin // self.unit, -(-min(end, self.size) // self.unit)) if end > begin else range(0)
