"""GGUF files in the model folders: found within bounds, read once, read again only when they change."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from twd.gguf_tools.model_file import read_model
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import ModelFile

DEPTH_MAX: Final = 5
ENTRIES_MAX: Final = 20_000
MODELS_MAX: Final = 256
CHUNK_BYTES: Final = 4 * 1024 * 1024

Stamp = tuple[int, int]


@dataclass
class ModelScan:
    """Remembers what it read of each file, by size and time of change."""

    folders: Sequence[Path]
    files: Sequence[Path] = ()
    """Model files outside of the folders; missing ones are skipped."""
    notes: list[str] = field(default_factory=list)
    _known: dict[Path, tuple[Stamp, ModelFile]] = field(default_factory=dict)
    _digests: dict[Path, tuple[Stamp, str]] = field(default_factory=dict)

    def scan(self) -> list[ModelFile]:
        """Return all models that are there now; blocks while it reads headers of new files."""
        self.notes = []
        named = (path for path in self.files if os.path.isfile(path) and is_first_part(path.name))
        found = sorted({*named, *(path for folder in self.folders for path in self._files(folder))})
        if len(found) > MODELS_MAX:
            self.notes.append(f"{len(found)} models in {len(self.folders)} folders; only {MODELS_MAX} are listed")
        listed = [model for path in found[:MODELS_MAX] if (model := self._look(path))]
        self._known = {path: self._known[path] for path in found if path in self._known}
        return listed

    def _files(self, folder: Path) -> Iterator[Path]:
        if not os.path.isdir(folder):  # unlike Path.is_dir, it does not raise where access is denied
            self.notes.append(f"{folder} is no folder, or may not be entered: correct agent.model_dirs")
            return
        seen = 0
        for here, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if len(Path(here).relative_to(folder).parts) >= DEPTH_MAX:
                folders.clear()
            seen += len(files)
            if seen > ENTRIES_MAX:
                self.notes.append(f"{folder} holds more than {ENTRIES_MAX} files; the rest is not searched")
                return
            yield from (Path(here) / name for name in files if is_first_part(name))

    def _look(self, path: Path) -> ModelFile | None:
        try:
            why, stamp = _why_not(path), _stamp(path)
        except OSError:  # the file was removed after it was found
            return None
        if why:
            self.notes.append(f"{shown(path)} is left out: {why}")
            return None
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            self._known[path] = known = (stamp, read_model(path))
        return known[1]

    def find(self, name: str) -> Path:
        """The file of a listed model, the first one where it has several."""
        listed = [model for _, model in list(self._known.values())]  # a copy: a scan may go on beside this
        path = next((Path(model.path) for model in listed if model.name == name), None)
        if path is None:
            raise TwdError(FailureCode.MODEL_NOT_FOUND, f"there is no model {name[:100]!r} on this machine", "sha256")
        return path

    def full_digest(self, path: Path, left: Callable[[], bool] = lambda: False) -> str:
        """Return the SHA-256 of a whole file; blocks for long. Empty if `left` says before the end that nobody
        waits."""
        stamp = _stamp(path)
        known = self._digests.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = sha256_of(path, left)
        if digest:
            self._digests[path] = (stamp, digest)
        return digest


def is_first_part(name: str) -> bool:
    """Whether a file name is that of a model or of its first part; parts are counted from 00001."""
    if not name.endswith(".gguf") or name.startswith("."):
        return False
    parts = name.removesuffix(".gguf").rsplit("-of-", 1)
    return len(parts) == 1 or not parts[1].isdigit() or parts[0].endswith("-00001")


def _why_not(path: Path) -> str:
    """Return why a file with the name of a model cannot be listed; empty when it can."""
    if shown(path) != str(path):
        return "its name is no UTF-8; rename it"
    return "" if stat.S_ISREG(path.stat().st_mode) else "it is no file"


def shown(path: Path) -> str:
    """A path as text that can be sent and printed, whatever bytes it is made of."""
    return str(path).encode(errors="backslashreplace").decode()


def sha256_of(path: Path, left: Callable[[], bool] = lambda: False) -> str:
    """Return the SHA-256 of a file in hex; empty if `left` says before the end that nobody waits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            if left():
                return ""
            digest.update(piece)
    return digest.hexdigest()


def _stamp(path: Path) -> Stamp:
    told = path.stat()
    return told.st_size, told.st_mtime_ns
