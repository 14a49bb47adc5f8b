"""The state folder of one installation: who holds it, what runs in it, where its files are."""

import os
import time
from pathlib import Path
from typing import Final

import msgspec

from twd.private_file import write_private
from twd.process import platform
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import NONSENSE

RESOLVED_VARIABLE: Final = "TWD_RESOLVED"
"""Names the file in which a process that starts others keeps the settings for them."""
LOCK_PATIENCE_S: Final = 0.5
RECORD_PATIENCE_S: Final = 1.0


class RunningInstance(msgspec.Struct, frozen=True, kw_only=True):
    """What a running supervisor writes down for `twd status`, `twd down` and the next `twd up`."""

    pid: int
    born: float
    """When the process began, as the system tells it: a pid alone may be somebody else's by now."""
    started_ms: int
    version: str
    node: str
    guard: int = 0
    """The process that starts another supervisor if this one is killed; 0: none does."""
    bus_url: str = ""
    bus_token: str = ""
    bus_fingerprint: str = ""
    """Of the broker's certificate, where it speaks TLS."""
    addresses: dict[str, str] = {}
    processes: dict[str, int] = {}
    leaseless: tuple[str, ...] = ("broker",)
    """Those of them that are no services, and so hold no lease."""
    ready: bool = False
    missing: dict[str, str] = {}
    """Processes without which the others go on, and why they cannot work now."""

    def named(self) -> str:
        """The one line that tells people which instance this is."""
        where = "".join(f", {name} {address}" for name, address in self.addresses.items())
        return f"pid {self.pid}{where}"


class AlreadyRunning(TwdError):
    """Another supervisor holds this home."""

    def __init__(self, home: Path, instance: RunningInstance | None) -> None:
        who = instance.named() if instance else "it has just started"
        super().__init__(
            FailureCode.BUSY,
            f"twd already runs in {home}: {who}. End it with `twd down`, or set TWD_HOME for a second one.",
        )
        self.instance = instance


class Unrecorded(TwdError):
    """Somebody holds this home, and nobody can tell who."""

    def __init__(self, lock: Path, problem: str) -> None:
        super().__init__(
            FailureCode.INTERNAL,
            f"twd runs here, for {lock} is held, but its record cannot be read: {problem}. "
            f"Try again in a moment; else end by hand the process that `fuser {lock}` names.",
        )


class StateFolder:
    """Paths and files below TWD_HOME."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.run = path / "run"
        self.cache = path / "cache"
        self.weights = self.cache / "weights"
        """What RPC workers were sent, each in a folder of its own."""
        self.models = path / "models"
        self._lock_file = self.run / "lock"
        self._instance_file = self.run / "instance.json"

    def prepare(self) -> None:
        """Make the folders, for this user only."""
        try:
            for folder in (self.path, self.logs, self.run, self.cache, self.models):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TwdError(
                FailureCode.BAD_REQUEST,
                f"the state folder {self.path} cannot be made: {error.strerror}. Set TWD_HOME to a folder of yours.",
            ) from error

    # -- one supervisor at a time ----------------------------------------------------------------

    def acquire(self) -> int:
        """Hold this home until the process ends; raises AlreadyRunning. Returns the open lock file."""
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        give_up = time.monotonic() + LOCK_PATIENCE_S  # `running` holds the lock for an instant
        while not platform.try_lock(descriptor):
            if time.monotonic() > give_up:
                os.close(descriptor)
                raise AlreadyRunning(self.path, self.read_instance()[0])
            time.sleep(0.05)
        return descriptor

    def held(self) -> bool:
        """Whether a supervisor holds this home now."""
        if not self._lock_file.exists():
            return False
        descriptor = os.open(self._lock_file, os.O_RDWR)
        try:
            return not platform.try_lock(descriptor, shared=True)
        finally:
            os.close(descriptor)

    def running(self) -> RunningInstance | None:
        """The instance that runs here now; a record without a living holder counts for nothing.

        A holder without a record has just started: it is waited for, and raises Unrecorded if none comes.
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
        """The record, and in words what is wrong with it if it cannot be read."""
        try:
            return msgspec.json.decode(self._instance_file.read_bytes(), type=RunningInstance), ""
        except FileNotFoundError:
            return None, ""
        except (OSError, *NONSENSE) as error:
            return None, f"{self._instance_file}: {error}"

    def write_instance(self, instance: RunningInstance) -> None:
        """Write the record, for this user only."""
        write_private(self._instance_file, msgspec.json.encode(instance))

    @property
    def settings_file(self) -> Path:
        """The settings as the supervisor resolved them, for its children."""
        return self.run / "settings.json"

    def forget_instance(self) -> None:
        """Remove the record: this instance ended in good order."""
        self._instance_file.unlink(missing_ok=True)
        self.settings_file.unlink(missing_ok=True)

    def clear_stale(self) -> str:
        """With the lock in hand: move aside what a dead supervisor left, and say so in words."""
        instance, problem = self.read_instance()
        if problem:
            return f"{problem}; moved to {move_aside(self._instance_file).name}"
        if instance is not None:
            self.forget_instance()
            return f"the last supervisor (pid {instance.pid}) did not end in good order; its record is removed"
        return ""


def move_aside(path: Path) -> Path:
    """Keep a file that makes no sense for whoever wants to look, and make room."""
    aside = path.with_name(f"{path.name}.bad-{time.time_ns() // 1_000_000}")
    path.replace(aside)
    return aside
