"""The manifest of one file, and the checks that it must pass before it is used."""

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from twd.pieces.names import check_name
from twd.pieces.tree import HASH_BYTES, UNIT, root_of, units_of
from twd.private_file import write_private
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import NONSENSE

SIZE_MAX: Final = 1 << 43
"""8 TiB; no model file is larger."""
MANIFEST_BYTES_MAX: Final = 64 * 1024 * 1024
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
MaybeDigest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Size = Annotated[int, Meta(ge=0, le=SIZE_MAX)]


class BadManifest(TwdError):
    """A manifest that contradicts itself or is malicious."""

    def __init__(self, what: str) -> None:
        text = f"the manifest cannot be used: {what}. Get it again from who made it (`twd manifest create FILE`)"
        super().__init__(FailureCode.BAD_REQUEST, text, "manifest")


class Piece(msgspec.Struct, frozen=True):
    """A part of the file with its SHA-256; kept for readers of the older format."""

    index: Size
    offset: Size
    size: Size
    sha256: Digest


class TensorPlace(msgspec.Struct, frozen=True):
    """The place of a tensor, from the begin of the file."""

    name: Annotated[str, Meta(max_length=1024)]
    offset: Size
    size: Size
    sha256: Digest


class Shard(msgspec.Struct, frozen=True, omit_defaults=True):
    """Another file of the same split model; it has a manifest of its own."""

    filename: str
    size: Size
    root: MaybeDigest = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The manifest of one file.

    The first seven fields are those of tightwad; without `root` and `layer` the pieces are checked.
    """

    filename: str
    total_size: Annotated[int, Meta(ge=1, le=SIZE_MAX)]
    piece_size: Annotated[int, Meta(ge=1, le=1 << 40)]
    model: str = ""
    pieces: list[Piece] = []
    metadata: dict[str, Any] = {}
    created_at: Any = ""
    root: MaybeDigest = ""
    layer: str = ""
    """The hash of each MiB, in hex, concatenated."""
    sha256: MaybeDigest = ""
    quick_hash: Annotated[str, Meta(max_length=64)] = ""
    tensors: list[TensorPlace] = []
    data_offset: Size = 0
    shards: list[Shard] = []
    model_hash: Annotated[str, Meta(max_length=64)] = ""
    """In the manifest of a split model's first file: the quick hash of all files together."""
    signer: Annotated[str, Meta(max_length=128)] = ""
    signature: Annotated[str, Meta(max_length=256)] = ""

    @property
    def name(self) -> str:
        """The file's name in the swarm: its root, or a hash of its pieces where there is no tree."""
        return self.root or _name_of_pieces(self)

    @property
    def hash(self) -> str:
        """The quick hash by which machines ask for the model that begins with this file."""
        return self.model_hash or self.quick_hash

    @property
    def model_bytes(self) -> int:
        """The size of the model that begins with this file."""
        return sum(one.size for one in self.shards) if self.model_hash else self.total_size

    def layer_hashes(self) -> list[bytes]:
        """Return the hash of each MiB."""
        raw = bytes.fromhex(self.layer)
        return [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)]


def _name_of_pieces(manifest: Manifest) -> str:
    from hashlib import sha256

    return sha256("".join(piece.sha256 for piece in manifest.pieces).encode()).hexdigest()


def read_manifest(data: bytes) -> Manifest:
    """Parse a manifest from untrusted bytes; raises BadManifest."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise BadManifest(f"it has more than {MANIFEST_BYTES_MAX} bytes")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except NONSENSE as error:
        raise BadManifest(str(error)) from None
    check(manifest)
    return manifest


def load_manifest(path: Path) -> Manifest:
    """Read the manifest in a file."""
    try:
        with path.open("rb") as file:
            return read_manifest(file.read(MANIFEST_BYTES_MAX + 1))
    except OSError as error:
        raise TwdError(FailureCode.MODEL_NOT_FOUND, f"{path} cannot be read: {error.strerror}") from None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest to a file, atomically."""
    write_private(path, encode_manifest(manifest))


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def check(manifest: Manifest) -> None:
    """Raise BadManifest if the manifest contradicts itself, or the error for a bad file name."""
    for name in (manifest.filename, *(shard.filename for shard in manifest.shards)):
        check_name(name)
    if manifest.root:
        _check_tree(manifest)
    elif not manifest.pieces:
        raise BadManifest("it has neither a root nor pieces")
    if manifest.pieces:
        _check_pieces(manifest)
    _check_tensors(manifest)


def _check_tree(manifest: Manifest) -> None:
    try:
        layer = manifest.layer_hashes()
    except ValueError:
        raise BadManifest("its layer is no hexadecimal text") from None
    units = units_of(manifest.total_size)
    if len(manifest.layer) != 2 * HASH_BYTES * units:
        raise BadManifest(f"its layer has {len(layer)} hashes, its size needs {units}")
    if root_of(layer).hex() != manifest.root:
        raise BadManifest("its root is not the root of its layer")


def _check_pieces(manifest: Manifest) -> None:
    count = -(-manifest.total_size // manifest.piece_size)
    if len(manifest.pieces) != count:
        raise BadManifest(f"it has {len(manifest.pieces)} pieces, its size needs {count}")
    for index, piece in enumerate(manifest.pieces):
        offset = index * manifest.piece_size
        size = min(manifest.piece_size, manifest.total_size - offset)
        if (piece.index, piece.offset, piece.size) != (index, offset, size):
            raise BadManifest(f"piece {index} is not where it must be")


def _check_tensors(manifest: Manifest) -> None:
    end = manifest.data_offset
    for tensor in sorted(manifest.tensors, key=lambda one: one.offset):
        if tensor.offset < end:
            raise BadManifest(f"tensor {tensor.name[:80]!r} overlaps another one")
        end = tensor.offset + tensor.size
    if end > manifest.total_size:
        raise BadManifest("a tensor lies behind the end of the file")


def check_piece_size(mib: int) -> int:
    """Return a piece size in bytes; it must be a power of two, as BitTorrent wants it."""
    if mib < 1 or mib & (mib - 1):
        lower = 1 << max(0, mib.bit_length() - 1)
        text = f"a piece of {mib} MiB is no power of two; take {lower} or {lower * 2}"
        raise TwdError(FailureCode.BAD_REQUEST, text, "piece_size")
    return mib * UNIT
