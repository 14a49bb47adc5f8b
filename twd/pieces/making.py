"""Makes a manifest: all hashes in one pass over the file; it is kept while the file does not change."""

import contextlib
import datetime
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from twd.gguf_tools.header import BrokenGguf, GgufHeader, read_header
from twd.gguf_tools.inspect import inspect, shards_of
from twd.gguf_tools.model_file import hash_of_files, quick_hash, why_no_file
from twd.kit.progress import Share, unheard
from twd.pieces.hashing import FileHashes, Place
from twd.pieces.manifest import Manifest, Piece, Shard, TensorPlace, load_manifest, write_manifest
from twd.pieces.names import check_name, manifest_of, old_manifest_of
from twd.pieces.page_care import warm_units
from twd.pieces.tree import UNIT, root_of
from twd.wire.failures import FailureCode, TwdError

PIECE_BYTES: Final = 64 * UNIT


def make_manifest(
    path: Path, piece_bytes: int = PIECE_BYTES, *, with_inspection: bool = True, progress: Share = unheard
) -> Manifest:
    """Read one file and return its manifest with all hashes."""
    with open_model(path) as file:
        check_name(path.name)
        header = _header(path) if with_inspection else None
        before = os.fstat(file.fileno())
        size = before.st_size
        if not size:
            raise TwdError(FailureCode.BAD_REQUEST, f"{path} is empty; there is nothing to share")
        hashes = FileHashes(size, piece_bytes, tensor_places(header))
        hashes.read(file.fileno(), size, warm=warm_units(file.fileno(), size), progress=progress)
        after = os.fstat(file.fileno())
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise TwdError(FailureCode.BAD_REQUEST, f"{path} changed while it was read; try again when nobody writes to it")
    return manifest_from(path, path.name, hashes, header, hashes.layer)


def manifest_from(
    path: Path, name: str, hashes: FileHashes, header: GgufHeader | None, layer: Sequence[bytes]
) -> Manifest:
    """Return the manifest of a file whose bytes were all read; `layer` has the hash of each MiB."""
    size, piece_bytes = hashes.size, hashes.piece_bytes
    pieces = [
        Piece(number, number * piece_bytes, min(piece_bytes, size - number * piece_bytes), digest)
        for number, digest in enumerate(hashes.pieces)
    ]
    return Manifest(
        filename=name,
        model=header.text("general.name") if header else "",
        total_size=size,
        piece_size=piece_bytes,
        pieces=pieces,
        metadata=_metadata(path, header),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        root=root_of(layer).hex(),
        layer=b"".join(layer).hex(),
        sha256=hashes.whole,
        quick_hash=quick_hash(path),
        data_offset=header.data_offset if header else 0,
        tensors=[TensorPlace(*place, digest) for place, digest in zip(hashes.places, hashes.tensors, strict=True)],
    )


def open_model(path: Path) -> Any:
    """Open a file for reading; raises TwdError with advice."""
    if why := why_no_file(path):
        raise TwdError(FailureCode.BAD_REQUEST, f"{path} {why}")
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise TwdError(FailureCode.MODEL_NOT_FOUND, f"{path} cannot be read: {error.strerror}") from None


def _header(path: Path) -> GgufHeader | None:
    try:
        return read_header(path)
    except BrokenGguf:
        return None


def tensor_places(header: GgufHeader | None) -> list[Place]:
    """Return where the tensors of a file lie, in order; none where they overlap."""
    if header is None:
        return []
    places = [
        Place(one.name, header.data_offset + one.offset, one.size_bytes) for one in header.tensors if one.size_bytes
    ]
    places.sort(key=lambda place: place[1])
    apart = all(one[1] + one[2] <= two[1] for one, two in itertools.pairwise(places))
    return places if apart else []


def _metadata(path: Path, header: GgufHeader | None) -> dict[str, Any]:
    if header is None:
        return {}
    try:
        info = inspect(path)
    except TwdError:  # a later shard, or no language model
        return {"arch": header.text("general.architecture")} if header.text("general.architecture") else {}
    return {
        "arch": info.architecture,
        "quantization": info.quantization,
        "n_layers": info.layers,
        "params": info.parameters,
        "context_length": info.context_length,
    }


# -- remembered ----------------------------------------------------------------------------------


def known_manifest(path: Path) -> Manifest | None:
    """Return the manifest beside a file, if it is about the file as it is now, else None."""
    for beside in (manifest_of(path), old_manifest_of(path)):
        try:
            manifest = load_manifest(beside)
            fits = _fits(path, beside, manifest)
        except (TwdError, OSError):
            continue
        if fits:
            return manifest
    return None


def _fits(path: Path, beside: Path, manifest: Manifest) -> bool:
    found = path.stat()
    if found.st_size != manifest.total_size or found.st_mtime_ns > beside.stat().st_mtime_ns:
        return False
    return not manifest.quick_hash or quick_hash(path) == manifest.quick_hash


def manifest_for(path: Path, piece_bytes: int = PIECE_BYTES, *, progress: Share = unheard) -> Manifest:
    """Return the stored manifest, else a new one, which is stored beside the file if the folder is writable."""
    known = known_manifest(path)
    if known is not None:
        return known
    made = make_manifest(path, piece_bytes, progress=progress)
    with contextlib.suppress(OSError):  # in a read-only folder it is made again next time
        write_manifest(manifest_of(path), made)
    return made


def together(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return the manifests of the files of one model, each with the names of all; the first tells their hash, too."""
    if len(manifests) < 2:
        return list(manifests)
    shards = [Shard(one.filename, one.total_size, one.root) for one in manifests]
    first, *others = (msgspec.structs.replace(one, shards=shards) for one in manifests)
    return [msgspec.structs.replace(first, model_hash=hash_of_files([one.quick_hash for one in manifests])), *others]


def known_manifests(path: Path) -> list[Manifest] | None:
    """Return the stored manifests of all files of the model that begins with this one; None if one is missing."""
    parts = files_of(path)
    known = [manifest for part in parts if (manifest := known_manifest(part)) is not None]
    return together(known) if len(known) == len(parts) else None


def _of_part(progress: Share, at: int, count: int) -> Share:
    return lambda share: progress((at + share) / count)


def manifests_for(path: Path, piece_bytes: int = PIECE_BYTES, *, progress: Share = unheard) -> list[Manifest]:
    """Return the manifests of all files of a model: those that are stored, else new ones, which are stored."""
    parts = files_of(path)
    alone = [
        manifest_for(part, piece_bytes, progress=_of_part(progress, at, len(parts))) for at, part in enumerate(parts)
    ]
    made = together(alone)
    for part, stored, manifest in zip(parts, alone, made, strict=True):
        if stored != manifest:
            with contextlib.suppress(OSError):
                write_manifest(manifest_of(part), manifest)
    return made


def files_of(path: Path) -> list[Path]:
    """Return the file, or all files of the split model that begins with it."""
    try:
        return shards_of(path)
    except TwdError:  # a later part alone is a file like any other
        return [path]
