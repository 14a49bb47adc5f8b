"""The state folder of one installation: its lock, the record of the running supervisor, and the paths of its files."""

import os
import time
from pathlib import Path
from typing import Final

import msgspec

import twd
from twd.private_file import write_private
from twd.process import platform
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import NONSENSE

RESOLVED_VARIABLE: Final = "TWD_RESOLVED"
"""The environment variable with the path of the resolved settings, for child processes."""
FORMAT: Final = 1
"""The form of everything in a state folder; raised when an older program could not read what a newer one writes."""
LOCK_PATIENCE_S: Final = 0.5
RECORD_PATIENCE_S: Final = 1.0


class ReloadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How often a running supervisor has read its settings again, and with what result."""

    count: int = 0
    done_well: bool = True
    words: str = ""


class RunningInstance(msgspec.Struct, frozen=True, kw_only=True):
    """The record that a running supervisor writes for `twd status`, `twd down` and the next `twd up`."""

    pid: int
    born: float
    """The start time of the process, from the system: the pid alone may belong to another process later."""
    started_ms: int
    version: str
    node: str
    guard: int = 0
    """The pid of the process that restarts a killed supervisor; 0: none."""
    in_terminal: bool = False
    """It was started without -d, and not by a service manager."""
    bus_url: str = ""
    bus_token: str = ""
    bus_fingerprint: str = ""
    """The fingerprint of the broker's certificate, if it speaks TLS."""
    bus_keys: str = ""
    """The folder with this machine's keys, where the broker has no token."""
    addresses: dict[str, str] = {}
    processes: dict[str, int] = {}
    leaseless: tuple[str, ...] = ("broker",)
    """The names of processes that are no services and have no lease."""
    ready: bool = False
    missing: dict[str, str] = {}
    """The missing processes, each with the reason."""
    reload: ReloadRecord | None = None
    """None: this supervisor does not read its settings again."""

    def named(self) -> str:
        """Return one line for people that identifies this instance."""
        where = "".join(f", {name} {address}" for name, address in self.addresses.items())
        return f"pid {self.pid}{where}"


class FolderFormat(msgspec.Struct, frozen=True, kw_only=True):
    """Names the form of a state folder, and the version that wrote it."""

    format: int
    written_by: str = ""


class AlreadyRunning(TwdError):
    """Raised when another supervisor holds this state folder."""

    def __init__(self, home: Path, instance: RunningInstance | None) -> None:
        who = instance.named() if instance else "it has just started"
        super().__init__(
            FailureCode.BUSY,
            f"twd already runs in {home}: {who}. End it with `twd down`, or set TWD_HOME for a second one.",
        )
        self.instance = instance


class Unrecorded(TwdError):
    """Raised when the lock is held but the record of its holder cannot be read."""

    def __init__(self, lock: Path, problem: str) -> None:
        super().__init__(
            FailureCode.INTERNAL,
            f"twd runs here, for {lock} is held, but its record cannot be read: {problem}. "
            f"Try again in a moment; else end by hand the process that `fuser {lock}` names.",
        )


class StateFolder:
    """The paths and files below TWD_HOME."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.run = path / "run"
        self.cache = path / "cache"
        self.weights = self.cache / "weights"
        """The weights that RPC workers received, each worker in a folder of its own."""
        self.slices = self.cache / "slices"
        """Slices of models, each a file of its own."""
        self.models = path / "models"
        self._lock_file = self.run / "lock"
        self._instance_file = self.run / "instance.json"
        self._format_file = path / "format.json"

    def check_format(self) -> None:
        """Raise TwdError for a state folder that a newer version wrote; nothing in it is touched."""
        try:
            found = msgspec.json.decode(self._format_file.read_bytes(), type=FolderFormat)
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # whoever writes there says what is wrong
            return
        except (OSError, *NONSENSE) as error:
            text = f"{self._format_file} cannot be read, so nobody knows whether this version can use {self.path}"
            raise TwdError(FailureCode.UNSUPPORTED, f"{text}: {error}") from None
        if found.format > FORMAT:
            text = f"{self.path} is of twd {found.written_by} (form {found.format}); this is twd {twd.__version__}"
            more = f"which knows form {FORMAT}. It is left as it is"
            mend = "`twd upgrade` brings a newer program, TWD_HOME names another folder"
            raise TwdError(FailureCode.UNSUPPORTED, f"{text}, {more}; {mend}")

    def _write_format(self) -> None:
        if not self._format_file.exists():
            written = FolderFormat(format=FORMAT, written_by=twd.__version__)
            write_private(self._format_file, msgspec.json.encode(written))

    def prepare(self) -> None:
        """Make the folders, readable for this user only."""
        self.check_format()
        try:
            for folder in (self.path, self.logs, self.run, self.cache, self.models):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write_format()
        except OSError as error:
            raise TwdError(
                FailureCode.BAD_REQUEST,
                f"the state folder {self.path} cannot be made: {error.strerror}. Set TWD_HOME to a folder of yours.",
            ) from error

    # -- one supervisor at a time ----------------------------------------------------------------

    def acquire(self) -> int:
        """Lock this state folder until the process ends, or raise AlreadyRunning.

        Returns the descriptor of the lock file.
        """
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        if not platform.lock_within(descriptor, LOCK_PATIENCE_S, 0.05):  # `held` has the lock for an instant
            os.close(descriptor)
            raise AlreadyRunning(self.path, self.read_instance()[0])
        return descriptor

    def held(self) -> bool:
        """Return whether a supervisor holds the lock now."""
        if not self._lock_file.exists():
            return False
        descriptor = os.open(self._lock_file, os.O_RDWR)
        try:
            return not platform.try_lock(descriptor, shared=True)
        finally:
            os.close(descriptor)

    def running(self) -> RunningInstance | None:
        """Return the record of the running supervisor, or None; a record without a held lock is ignored.

        If the lock is held but there is no record yet, wait for it; raises Unrecorded if none comes.
        """
        give_up = time.monotonic() + RECORD_PATIENCE_S
        while self.held():
            instance, problem = self.read_instance()
            if instance is not None:
                return instance
            if time.monotonic() > give_up:
                raise Unrecorded(self._lock_file, problem or f"{self._instance_file} is not there")
            time.sleep(0.05)
        return None

    # -- the record ------------------------------------------------------------------------------

    def read_instance(self) -> tuple[RunningInstance | None, str]:
        """Return the record, and the problem in words if it cannot be read."""
        try:
            return msgspec.json.decode(self._instance_file.read_bytes(), type=RunningInstance), ""
        except FileNotFoundError:
            return None, ""
        except (OSError, *NONSENSE) as error:
            return None, f"{self._instance_file}: {error}"

    def keeps(self, process: str) -> bool:
        """Return whether a running supervisor of this folder looks after the process with this name."""
        instance, _ = self.read_instance()
        return instance is not None and process in instance.processes and self.held()

    def write_instance(self, instance: RunningInstance) -> None:
        """Write the record, readable for this user only."""
        write_private(self._instance_file, msgspec.json.encode(instance))

    @property
    def settings_file(self) -> Path:
        """The file with the resolved settings, for child processes."""
        return self.run / "settings.json"

    def forget_instance(self) -> None:
        """Remove the record and the settings file, as this instance ended normally."""
        self._instance_file.unlink(missing_ok=True)
        self.settings_file.unlink(missing_ok=True)

    def clear_stale(self) -> str:
        """Remove or rename the record of a dead supervisor;

        call it with the lock held. Returns what was done, in words.
        """
        instance, problem = self.read_instance()
        if problem:
            return f"{problem}; moved to {move_aside(self._instance_file).name}"
        if instance is not None:
            self.forget_instance()
            return f"the last supervisor (pid {instance.pid}) did not end in good order; its record is removed"
        return ""


def move_aside(path: Path) -> Path:
    """Rename a file that cannot be read, so that people can look at it; returns its new path."""
    aside = path.with_name(f"{path.name}.bad-{time.time_ns() // 1_000_000}")
    path.replace(aside)
    return aside
