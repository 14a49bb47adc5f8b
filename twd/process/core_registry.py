"""A registry of the engines on one computer, for all installations of one user.

Each process that computes keeps one small locked file in a common folder. The lock ends with the process, so a file
without a lock is left over. Without such a folder, an engine knows only of itself.
"""

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from twd.process import platform
from twd.process.core_plan import CoreShare, Engine, EngineRole, plan_cores
from twd.process.cores import usable_cores
from twd.wire.leases.base import CoreFacts

ENTRIES_MAX: Final = 256
ENTRY_BYTES_MAX: Final = 65_536
SHOWN_MAX: Final = 16
_log = logging.getLogger("twd.process.cores")


class CoreRegistry:
    """The engines that compute on this computer, this process included."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or usual_folder()
        self._held: int | None = None
        self._path: Path | None = None
        self.own: Engine | None = None

    def enter(self, engine: Engine) -> None:
        """Register this engine; if the folder cannot be used, that is logged."""
        self.leave()
        self.own = engine
        try:
            private_folder(self._folder)
            self._hold(self._folder / f"{engine.pid}-{os.urandom(4).hex()}.json", msgspec.json.encode(engine))
        except OSError as error:
            _log.info("engines of other installations are not known: %s", error)

    def _hold(self, path: Path, value: bytes) -> None:
        """Write and lock the file under another name first, so that nobody finds it without its lock."""
        hidden = path.with_suffix(".new")
        self._held = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(self._held, value)
        platform.try_lock(self._held)
        hidden.rename(path)
        self._path = path

    def leave(self) -> None:
        """Remove the registration of this process; may be called again."""
        held, self._held, path, self._path, self.own = self._held, None, self._path, None, None
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()
        if held is not None:
            os.close(held)

    def engines(self) -> list[Engine]:
        """Return all engines that compute on this computer now, this process included."""
        return engines_of(self._folder, self._path) + ([self.own] if self.own is not None else [])

    def share(self) -> CoreShare | None:
        """Return the current share of this process; None before `enter`."""
        return None if self.own is None else plan_cores(self.engines())[self.own.name]


def engines_of(folder: Path, without: Path | None = None) -> list[Engine]:
    """Return the engines of live processes; files of ended processes are removed."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path != without)
    except OSError:
        return []
    found = (_read(path) for path in paths[:ENTRIES_MAX])
    return [engine for engine in found if engine is not None]


def _read(path: Path) -> Engine | None:
    try:
        entry = os.open(path, os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        if platform.try_lock(entry):
            path.unlink(missing_ok=True)
            return None
        return msgspec.json.decode(os.read(entry, ENTRY_BYTES_MAX), type=Engine)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    finally:
        os.close(entry)


def usual_folder() -> Path:
    """Return the usual folder, one for each user of this computer."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"twd-cores-{user}"


def private_folder(folder: Path | None = None) -> Path:
    """Make the folder, or the usual one, and return it; raise PermissionError if it belongs to another user, whose
    files cannot be trusted."""
    folder = folder or usual_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if hasattr(os, "getuid") and (folder.is_symlink() or found.st_uid != os.getuid()):
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def this_engine(name: str, part: EngineRole, model: str, asked: int, cards: tuple[str, ...] = ()) -> Engine:
    """Return the entry of this process. One that computes on cards leaves the cores to others."""
    return Engine(
        name=name,
        part=part,
        model=model,
        cores=() if cards else allowed_cores(),
        room=usable_cores(),
        asked=asked,
        cards=cards,
        pid=os.getpid(),
    )


def allowed_cores() -> tuple[int, ...]:
    """Return the processors on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


class OwnCores:
    """The share of cores of this process, from the moment when its model is loaded."""

    def __init__(self, part: EngineRole, model: str, asked: int = 0, board: CoreRegistry | None = None) -> None:
        self._part, self._model, self._asked = part, model, asked
        self._board = board or CoreRegistry()
        self.share: CoreShare | None = None
        """The share at the last look; None while it computes nothing."""

    def enter(self, name: str, cards: tuple[str, ...] = ()) -> CoreShare:
        """Register this process, with the cards on which it computes, and return its share."""
        self._board.enter(this_engine(name, self._part, self._model, self._asked, cards))
        share = self._board.share()
        assert share is not None
        self.share = share
        return share

    @property
    def limits(self) -> tuple[int, int]:
        """The number of usable cores, and the number of threads that was asked for (0: as many as is best)."""
        return usable_cores(), self._asked

    def look(self) -> CoreShare | None:
        """Return the share if it changed since the last look, else None."""
        share = self._board.share()
        if share is None or share == self.share:
            return None
        self.share = share
        return share

    def leave(self) -> None:
        """Remove the registration of this process; may be called again."""
        self._board.leave()
        self.share = None

    def facts(self) -> CoreFacts | None:
        """Return the share as the lease tells it; None if there is none."""
        share = self.share
        if share is None:
            return None
        return CoreFacts(
            threads=share.threads, beside=list(share.beside[:SHOWN_MAX]), yields=share.yields, on_card=share.on_card
        )
