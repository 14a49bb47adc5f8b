"""A cache of slices that this machine made. Slices are found by model and layers; the longest unused go first."""

import contextlib
import logging
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.gguf_tools.header import read_header
from twd.gguf_tools.slice import PARTIAL, DiskFull, Model, ModelSource, model_source, plan_slice, write_slice
from twd.gguf_tools.slice_layout import SliceFacts, read_facts
from twd.kit.progress import Share, unheard
from twd.process.platform import disk_bytes
from twd.wire.failures import TwdError

_log = logging.getLogger("twd.gguf_tools.slice")
_SHARE_OF_DISK: Final = 4
_ABANDONED_S: Final = 3600.0
_NAME: Final = re.compile(r"-(\d+)-(\d+)(-head)?-([0-9a-f]{32})\.gguf\Z")


@dataclass(frozen=True, slots=True)
class CachedSlice:
    """A slice in the cache: the file, and when it was last used (seconds since 1970)."""

    path: Path
    disk_bytes: int
    used_at: float


def cached_slice(
    source: Model,
    first: int,
    end: int,
    head: bool,
    folder: Path,
    *,
    budget_bytes: int = 0,
    progress: Share = unheard,
) -> Path:
    """The file of the slice with layers `first` to `end` (not included), written on first use.

    For all layers with the head it returns the model's own file. After writing, other slices are removed until the
    cache takes at most `budget_bytes` (0: a quarter of the disk); this slice always stays.
    """
    source = model_source(source)
    facts = plan_slice(source, first, end, head=head).facts
    if facts.whole and source.complete:
        return source.files[0]
    path = folder / slice_name(source, facts)
    if _is(path, facts):
        os.utime(path)
        return path
    drop_partials(folder)
    try:
        write_slice(source, first, end, path, head=head, progress=progress)
    except DiskFull:
        if not collect(folder, 0, keep=path):
            raise
        write_slice(source, first, end, path, head=head, progress=progress)
    collect(folder, budget_bytes or shutil.disk_usage(folder).total // _SHARE_OF_DISK, keep=path)
    return path


def slice_name(source: ModelSource, facts: SliceFacts) -> str:
    """The file name of a slice in the cache. It contains the model's hash, so models with the same name differ."""
    return f"{source.stem[:80]}-{facts.first}-{facts.end}{'-head' if facts.head else ''}-{facts.model}.gguf"


def named_slice(name: str) -> tuple[int, int, bool, str] | None:
    """Layers, head and model hash in the file name of a cached slice; None for another name."""
    found = _NAME.search(name)
    return (int(found[1]), int(found[2]), bool(found[3]), found[4]) if found else None


def find_slice(folder: Path, model: str, first: int, end: int, head: bool) -> Path | None:
    """A slice in the cache by its model's hash and its layers, whether or not the model itself is here; else None."""
    wanted = (first, end, head, model)
    for path in folder.glob("*.gguf") if folder.is_dir() else ():
        if named_slice(path.name) != wanted:
            continue
        try:
            facts = read_facts(read_header(path).metadata)
        except TwdError:  # broken, or removed by another process
            continue
        if facts is not None and (facts.first, facts.end, facts.head, facts.model) == wanted:
            with contextlib.suppress(OSError):
                os.utime(path)
            return path
    return None


def contents(folder: Path) -> list[CachedSlice]:
    """The slices in the cache, the longest unused first."""
    found = []
    for path in folder.glob("*.gguf") if folder.is_dir() else ():
        try:
            stat = path.stat()
        except FileNotFoundError:  # another process has just removed it
            continue
        found.append(CachedSlice(path, disk_bytes(stat), stat.st_mtime))
    return sorted(found, key=lambda one: (one.used_at, one.path))


def collect(folder: Path, budget_bytes: int, keep: Path | None = None) -> list[CachedSlice]:
    """Remove the longest unused slices until the rest fits the budget; returns those removed. `keep` always stays."""
    held = contents(folder)
    total = sum(one.disk_bytes for one in held)
    removed = []
    for one in held:
        if total <= budget_bytes:
            break
        if one.path == keep or not _remove(one.path):
            continue
        total -= one.disk_bytes
        removed.append(one)
        _log.info("removed the slice %s, unused for the longest time", one.path.name)
    return removed


def drop_partials(folder: Path, older_than_s: float = _ABANDONED_S) -> None:
    """Remove unfinished files of processes that were killed while they wrote."""
    for path in folder.glob(f".*{PARTIAL}"):
        try:
            abandoned = time.time() - path.stat().st_mtime > older_than_s
        except FileNotFoundError:  # its writer has just finished
            continue
        if abandoned:
            _remove(path)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return True
    except OSError as error:
        _log.warning("the slice %s cannot be removed: %s", path, error.strerror or error)
        return False
    return True


def _is(path: Path, facts: SliceFacts) -> bool:
    """Whether a file is exactly this slice, and complete."""
    if not path.exists():
        return False
    try:
        found = read_facts(read_header(path).metadata)
    except TwdError as error:
        _log.warning("the slice %s is made anew: %s", path.name, error)
        return False
    return found == facts
