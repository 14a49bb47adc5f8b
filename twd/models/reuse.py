"""Takes what is on this machine already into a partial file: whole copies, and tensors of other models.

Nothing is believed: a unit counts as taken only when its hash is right.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from twd.gguf_tools.header import BrokenGguf, read_header
from twd.models.stores import ModelStore, StoredModel, all_models, whole_copies
from twd.pieces.checks import Checks
from twd.pieces.making import known_manifest
from twd.pieces.manifest import Manifest, TensorPlace
from twd.pieces.names import part_of
from twd.pieces.partial import PartialFile, closed_units

GAP_BYTES_MAX: Final = 4096
"""Gaps between tensors up to this are padding: zeros."""
MISSES_MAX: Final = 8
"""After so many tensors in a row with other bytes, a file is taken for that of another model."""
FILES_MAX: Final = 256
READ_BYTES: Final = 1 << 22
PARTS: Final = "layers that are here"
_CANNOT: Final = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


@dataclass(frozen=True)
class Copying:
    """Who wants to know of the copying, from its thread."""

    taken: Callable[[int, str], None] = lambda index, store: None
    """Is told each unit that was taken, and where from."""
    stopped: Callable[[], bool] = lambda: False
    """Whether the copying is to end early."""


class LocalRange(NamedTuple):
    """The bytes [begin, end) of the wanted file are at `offset` in a file that is here."""

    begin: int
    end: int
    offset: int
    path: Path
    store: str


def take_local(file: PartialFile, manifest: Manifest, stores: Sequence[ModelStore], copying: Copying) -> None:
    """Take the missing units of a file whose manifest is known; blocks for long."""
    own = {file.target, file.path}
    if manifest.sha256:
        for copy in whole_copies(stores, manifest.sha256, manifest.total_size):
            if copy.path not in own and not file.have.complete:
                take_units(file, [whole(copy, manifest.total_size)], copying)
    if manifest.tensors and not file.have.complete:
        models = (model for model in all_models(stores) if model.path not in own)
        take_units(file, tensor_stretches(manifest.tensors, models, copying.stopped), copying)


def part_ranges(target: Path, checks: Checks) -> list[LocalRange]:
    """Return what a partial file of the same bytes has; nothing while somebody fetches it."""
    units = closed_units(target)
    if units is None or len(units) != len(checks):
        return []
    places = (checks.place(index) for index in units)
    return [LocalRange(begin, begin + size, begin, part_of(target), PARTS) for begin, size in places]


def whole(copy: StoredModel, size: int) -> LocalRange:
    """Return the stretch of a copy of the whole file."""
    return LocalRange(0, size, 0, copy.path, copy.store)


# -- tensors -----------------------------------------------------------------------------------------


def tensor_stretches(
    wanted: Sequence[TensorPlace], models: Iterable[StoredModel], stopped: Callable[[], bool] = lambda: False
) -> list[LocalRange]:
    """Return where the bytes of the wanted tensors lie in other models."""
    left = {one.offset: one for one in wanted}
    found = []
    for number, model in enumerate(models):
        if not left or number >= FILES_MAX:
            break
        for stretch in _in_model(left.values(), model, stopped):
            if left.pop(stretch.begin, None) is not None:
                found.append(stretch)
    return sorted(found)


def _in_model(wanted: Iterable[TensorPlace], model: StoredModel, stopped: Callable[[], bool]) -> list[LocalRange]:
    """Return the wanted tensors that a model holds: by the hashes of its manifest, else by hashing those alike."""
    manifest = known_manifest(model.path)
    if manifest is not None and manifest.tensors:
        there = {one.sha256: one for one in manifest.tensors}
        return [_stretch(one, there[one.sha256].offset, model) for one in wanted if one.sha256 in there]
    return list(_hashed(wanted, model, stopped))


def _hashed(wanted: Iterable[TensorPlace], model: StoredModel, stopped: Callable[[], bool]) -> Iterator[LocalRange]:
    try:
        header = read_header(model.path)
    except BrokenGguf:
        return
    alike = {(one.name, one.size_bytes): header.data_offset + one.offset for one in header.tensors}
    misses = 0
    with contextlib.suppress(OSError), model.path.open("rb", buffering=0) as file:
        for one in sorted(wanted, key=lambda place: place.size):
            offset = alike.get((one.name, one.size))
            if offset is None or misses >= MISSES_MAX or stopped():
                continue
            if _sha256(file.fileno(), offset, one.size) == one.sha256:
                misses = 0
                yield _stretch(one, offset, model)
            else:
                misses += 1


def _stretch(place: TensorPlace, offset: int, model: StoredModel) -> LocalRange:
    return LocalRange(place.offset, place.offset + place.size, offset, model.path, model.store)


def _sha256(descriptor: int, offset: int, size: int) -> str:
    digest, end = hashlib.sha256(), offset + size
    while offset < end and (data := os.pread(descriptor, min(READ_BYTES, end - offset), offset)):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


# -- units -------------------------------------------------------------------------------------------


def covered_units(checks: Checks, stretches: Sequence[LocalRange]) -> Iterator[tuple[int, list[LocalRange]]]:
    """Yield each unit whose bytes all lie in stretches, but for small gaps, with the parts that make it.

    The stretches must be sorted, and must not overlap.
    """
    first = 0
    for index in range(len(checks)):
        begin, length = checks.place(index)
        end = begin + length
        while first < len(stretches) and stretches[first].end <= begin:
            first += 1
        parts, at, last = [], begin, first
        while last < len(stretches) and stretches[last].begin < end:
            one = stretches[last]
            start, stop = max(begin, one.begin), min(end, one.end)
            if start - at > GAP_BYTES_MAX:
                break
            parts.append(one._replace(begin=start, end=stop, offset=one.offset + start - one.begin))
            at, last = stop, last + 1
        if parts and at <= end and end - at <= GAP_BYTES_MAX:
            yield index, parts


def take_units(
    file: PartialFile,
    stretches: Sequence[LocalRange],
    copying: Copying,
    *,
    define: bool = False,
    guessed: dict[int, str] | None = None,
) -> None:
    """Copy the missing units that are covered into a partial file.

    `define`: units without a hash get theirs here. `guessed`: instead such units are written and noted there, with
    their store, but count as missing.
    """
    with contextlib.ExitStack() as stack:
        opened: dict[Path, int] = {}
        for index, parts in covered_units(file.checks, stretches):
            if copying.stopped():
                return
            if index in file.have or (guessed is not None and index in guessed):
                continue
            try:
                for part in parts:
                    if part.path not in opened:
                        opened[part.path] = stack.enter_context(part.path.open("rb", buffering=0)).fileno()
                _copy_unit(file, index, parts, opened)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                continue
            if guessed is not None and file.checks.digests[index] is None:
                guessed[index] = parts[0].store
            elif file.take_written(index, define=define):
                copying.taken(index, parts[0].store)


def _copy_unit(file: PartialFile, index: int, parts: Sequence[LocalRange], opened: dict[Path, int]) -> None:
    begin, length = file.checks.place(index)
    at = begin
    for part in parts:
        _zero(file.descriptor, at, part.begin)
        _copy(opened[part.path], part.offset, file.descriptor, part.begin, part.end - part.begin)
        at = part.end
    _zero(file.descriptor, at, begin + length)


def _zero(descriptor: int, begin: int, end: int) -> None:
    if end > begin:
        os.pwrite(descriptor, bytes(end - begin), begin)


def _copy(source: int, offset: int, target: int, at: int, length: int) -> None:
    """Copy inside the system where that is possible; file systems with shared blocks copy nothing at all."""
    while length > 0:
        try:
            count = os.copy_file_range(source, target, length, offset, at)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _CANNOT:
                raise
            count = os.pwrite(target, os.pread(source, length, offset), at)
        if not count:
            raise OSError(errno.EIO, "the file became shorter")
        offset, at, length = offset + count, at + count, length - count
