"""What a supervisor knows of its processes, told as one table: plain values in, a judgement out."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from twd.wire.service import Health, ServiceLease

Facts = dict[str, str | int | float | bool | list[str]]


class StartPhase(enum.StrEnum):
    """How far a process has come."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    RESTARTING = "restarting"
    SILENT = "silent"
    DRAINING = "draining"
    ENDED = "ended"


DONE = (StartPhase.READY, StartPhase.DEGRADED)
WELL = (StartPhase.READY, StartPhase.DRAINING)
"""As it should be."""


class ProcessRow(msgspec.Struct, kw_only=True):
    """One process."""

    name: str
    stage: StartPhase = StartPhase.STARTING
    pid: int = 0
    restarts: int = 0
    ready_ms: int = 0
    note: str = ""
    leased: bool = True
    node: str = ""
    """The machine that it plays, where that is not this one."""
    facts: Facts = {}


@dataclass
class ProcessTable:
    """All processes of one supervisor."""

    rows: dict[str, ProcessRow] = field(default_factory=dict)
    began_ms: int = 0
    ending: bool = False

    def started(self, name: str, pid: int) -> None:
        """A process runs; it has not said anything yet."""
        row = self.rows.setdefault(name, ProcessRow(name=name))
        row.pid, row.stage, row.facts, row.note = pid, StartPhase.STARTING, {}, ""

    def works(self, name: str, now_ms: int) -> None:
        """A process that holds no lease works: the broker."""
        row = self.rows[name]
        row.stage, row.ready_ms = StartPhase.READY, row.ready_ms or max(1, now_ms - self.began_ms)

    def exited(self, name: str, code: int, restarts: int, retry_in_s: float, problem: str) -> None:
        """A process ended, and will be started again."""
        row = self.rows.setdefault(name, ProcessRow(name=name))
        row.stage, row.restarts, row.pid = StartPhase.RESTARTING, restarts + 1, 0
        again = f"again in {retry_in_s:g} s" if retry_in_s else "again at once"
        row.note = f"exit code {code}, {again}" + (f": {problem[:200]}" if problem else "")

    def ends(self, stage: StartPhase) -> None:
        """Everything was told to end, or has ended: from now on leases count for nothing."""
        self.ending = True
        for row in self.rows.values():
            row.stage, row.note = stage, ""

    def see(self, leases: Iterable[ServiceLease], now_ms: int) -> bool:
        """Read what services say of themselves; returns whether anything is new."""
        if self.ending:
            return False
        by_pid = {lease.pid: lease for lease in leases}
        before = [(row.stage, row.note) for row in self.rows.values()]
        for row in self.rows.values():
            if row.pid in by_pid:
                self._see(row, by_pid[row.pid], now_ms)
            elif row.leased and row.stage in DONE:
                row.stage, row.note = StartPhase.SILENT, "it runs, but its lease ran out"
        return before != [(row.stage, row.note) for row in self.rows.values()]

    def _see(self, row: ProcessRow, lease: ServiceLease, now_ms: int) -> None:
        stage = stage_of(lease)
        if stage in DONE and not row.ready_ms:
            row.ready_ms = max(1, now_ms - self.began_ms)
        row.stage, row.note, row.facts = stage, lease.note, lease.facts

    def loading(self, model: str, progress: float, stage: str) -> None:
        """A model has come this far."""
        for row in self.rows.values():
            if row.facts.get("model") == model and row.stage is StartPhase.LOADING:
                row.note = f"{stage} {progress:.0%}"

    @property
    def ready(self) -> bool:
        """Whether every process can work."""
        return bool(self.rows) and all(row.stage in DONE for row in self.rows.values())


def stage_of(lease: ServiceLease) -> StartPhase:
    """How far a service has come, by its own word."""
    works = lease.facts.get("ready", True)
    match lease.health:
        case Health.STARTING:
            return StartPhase.LOADING
        case Health.DRAINING:
            return StartPhase.DRAINING
        case Health.DEGRADED:
            return StartPhase.DEGRADED if works else StartPhase.FAILED
    return StartPhase.READY if works else StartPhase.LOADING
