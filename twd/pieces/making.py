"""Makes a manifest: all hashes in one pass over the file; it is kept while the file does not change."""

import contextlib
import datetime
import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from twd.gguf_tools.header import BrokenGguf, GgufHeader, read_header
from twd.gguf_tools.inspect import inspect, shards_of
from twd.gguf_tools.model_file import quick_hash
from twd.kit.progress import Share, unheard
from twd.pieces.manifest import Manifest, Piece, Shard, TensorPlace, load_manifest, write_manifest
from twd.pieces.names import check_name, manifest_of, old_manifest_of
from twd.pieces.page_care import let_go, warm_units
from twd.pieces.tree import UNIT, root_of, unit_hash
from twd.wire.failures import FailureCode, TwdError

BATCH: Final = 16 * UNIT
PIECE_BYTES: Final = 64 * UNIT


class _Stretches:
    """Computes the SHA-256 of consecutive ranges, with or without gaps between them."""

    def __init__(self, stretches: Iterable[tuple[int, int]]) -> None:
        self._left = [(begin, begin + size) for begin, size in stretches][::-1]
        self._hash = hashlib.sha256()
        self.digests: list[str] = []

    def update(self, at: int, data: memoryview) -> None:
        """Add the next bytes of the file; `at` is their offset."""
        end = at + len(data)
        while self._left and self._left[-1][0] < end:
            begin, stop = self._left[-1]
            self._hash.update(data[max(begin, at) - at : min(stop, end) - at])
            if stop > end:
                return
            self.digests.append(self._hash.hexdigest())
            self._hash = hashlib.sha256()
            self._left.pop()


class _Units:
    """Computes the hashes of the units: a layer of the tree."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.layer: list[bytes] = []

    def update(self, at: int, data: memoryview) -> None:
        """Add whole units; only the last one may be shorter."""
        self.layer += [unit_hash(data[begin : begin + UNIT], self._size) for begin in range(0, len(data), UNIT)]


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
        places = _tensor_places(header)
        starts = range(0, size, piece_bytes)
        pieces = _Stretches((begin, min(piece_bytes, size - begin)) for begin in starts)
        tensors, units, whole = _Stretches(place[1:] for place in places), _Units(size), _Stretches([(0, size)])
        _read(file.fileno(), size, (whole, units, pieces, tensors), progress)
        after = os.fstat(file.fileno())
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise TwdError(FailureCode.BAD_REQUEST, f"{path} changed while it was read; try again when nobody writes to it")
    told = [
        Piece(i, b, min(piece_bytes, size - b), d) for i, (b, d) in enumerate(zip(starts, pieces.digests, strict=True))
    ]
    return Manifest(
        filename=path.name,
        model=header.text("general.name") if header else "",
        total_size=size,
        piece_size=piece_bytes,
        pieces=told,
        metadata=_metadata(path, header),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        root=root_of(units.layer).hex(),
        layer=b"".join(units.layer).hex(),
        sha256=whole.digests[0],
        quick_hash=quick_hash(path),
        data_offset=header.data_offset if header else 0,
        tensors=[TensorPlace(*place, digest) for place, digest in zip(places, tensors.digests, strict=True)],
    )


def _read(descriptor: int, size: int, hashes: Sequence[Any], progress: Share) -> None:
    """Read the file once; the hashes of a batch are computed in parallel, while the next batch is read."""
    warm = warm_units(descriptor, size)
    buffers = [memoryview(bytearray(min(BATCH, size))) for _ in range(2)]
    with ThreadPoolExecutor(len(hashes), "hash") as pool:
        waiting: list[Any] = []
        for number, at in enumerate(range(0, size, BATCH)):
            view = buffers[number % 2][: min(BATCH, size - at)]
            _fill(descriptor, view, at)
            if at // UNIT not in warm:
                let_go(descriptor, at, len(view))
            for one in waiting:
                one.result()
            waiting = [pool.submit(one.update, at, view) for one in hashes]
            progress(at / size)
        for one in waiting:
            one.result()
    progress(1.0)


def _fill(descriptor: int, view: memoryview, at: int) -> None:
    while view:
        count = os.preadv(descriptor, [view], at)
        if not count:
            raise TwdError(FailureCode.BAD_REQUEST, "the file became shorter while it was read; try again")
        view, at = view[count:], at + count


def open_model(path: Path) -> Any:
    """Open a file for reading; raises TwdError with advice."""
    if path.is_dir():
        raise TwdError(FailureCode.BAD_REQUEST, f"{path} is a folder; name a file in it")
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise TwdError(FailureCode.MODEL_NOT_FOUND, f"{path} cannot be read: {error.strerror}") from None


def _header(path: Path) -> GgufHeader | None:
    try:
        return read_header(path)
    except BrokenGguf:
        return None


def _tensor_places(header: GgufHeader | None) -> list[tuple[str, int, int]]:
    if header is None:
        return []
    places = [(one.name, header.data_offset + one.offset, one.size_bytes) for one in header.tensors if one.size_bytes]
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


def together(paths: Sequence[Path], manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return the manifests of the files of one split model, each with the names of all files."""
    if len(paths) < 2:
        return list(manifests)
    shards = [Shard(one.filename, one.total_size, one.root) for one in manifests]
    return [msgspec.structs.replace(one, shards=shards) for one in manifests]


def files_of(path: Path) -> list[Path]:
    """Return the file, or all files of the split model that begins with it."""
    try:
        return shards_of(path)
    except TwdError:  # a later part alone is a file like any other
        return [path]
