"""The state of all processes of one supervisor as a table:

leases and exits come in, one stage for each process comes out.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from twd.kit.exit_codes import ExitCode
from twd.wire.leases.base import LeaseFacts
from twd.wire.service import Health, ServiceLease


class StartPhase(enum.StrEnum):
    """The stage of a process."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    RESTARTING = "restarting"
    SILENT = "silent"
    MISSING = "missing"
    """It cannot work now; the others go on without it, and it joins when it can."""
    DRAINING = "draining"
    ENDED = "ended"


class Need(enum.StrEnum):
    """Whether the start of an installation needs a process."""

    ALWAYS = "always"
    ONE = "one"
    """At least one of the processes with this value must work."""
    NOT = "not"


class Wait(enum.StrEnum):
    """Which processes must work before an installation counts as ready."""

    SOME = "some"
    ALL = "all"


HOPELESS_RESTARTS: Final = 5
WRONG_SETTING: Final = frozenset({ExitCode.USAGE, ExitCode.CONFIG})
"""A process with one of these exit codes fails again until somebody changes the settings."""
OPTIONAL_SERVICES: Final = frozenset({"drafter", "relay"})
"""An installation starts without these services."""
DONE = (StartPhase.READY, StartPhase.DEGRADED)
WELL = (StartPhase.READY, StartPhase.DRAINING)
"""Stages without any problem."""


class ProcessRow(msgspec.Struct, kw_only=True):
    """One process of the table."""

    name: str
    stage: StartPhase = StartPhase.STARTING
    pid: int = 0
    restarts: int = 0
    ready_ms: int = 0
    note: str = ""
    leased: bool = True
    node: str = ""
    """The name of the machine that it stands for, if that is not this one."""
    need: Need = Need.ALWAYS
    exit_code: int = 0
    """The exit code of its last run."""
    model: str = ""
    """The model that it has; empty: none, or it has no lease yet."""
    facts: LeaseFacts = LeaseFacts()
    """Known in this process only: another process that reads a row gets none."""


@dataclass
class ProcessTable:
    """All processes of one supervisor."""

    rows: dict[str, ProcessRow] = field(default_factory=dict)
    began_ms: int = 0
    ending: bool = False
    wait: Wait = Wait.SOME

    def started(self, name: str, pid: int) -> None:
        """Note that a process was started; it has no lease yet."""
        row = self.rows.setdefault(name, ProcessRow(name=name))
        row.pid, row.stage, row.note = pid, StartPhase.STARTING, ""
        row.model, row.facts = "", LeaseFacts()

    def works(self, name: str, now_ms: int) -> None:
        """Note that a process without a lease works, such as the broker."""
        row = self.rows[name]
        row.stage, row.ready_ms = StartPhase.READY, row.ready_ms or max(1, now_ms - self.began_ms)

    def exited(self, name: str, code: int, restarts: int, retry_in_s: float, problem: str) -> None:
        """Note that a process ended and will be started again."""
        row = self.rows.setdefault(name, ProcessRow(name=name))
        spared = row.need is not Need.ALWAYS and not row.ready_ms
        row.stage, row.restarts, row.pid = StartPhase.MISSING if spared else StartPhase.RESTARTING, restarts + 1, 0
        row.exit_code = code
        again = f"again in {retry_in_s:g} s" if retry_in_s else "again at once"
        row.note = f"exit code {code}, {again}" + (f": {problem[:200]}" if problem else "")

    def ends(self, stage: StartPhase) -> None:
        """Note that all processes end or have ended; from now on leases are ignored."""
        self.ending = True
        for row in self.rows.values():
            row.stage, row.note = stage, ""

    def see(self, leases: Iterable[ServiceLease], now_ms: int) -> bool:
        """Update the table from the leases; returns whether anything changed."""
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
        if stage is StartPhase.FAILED and row.need is not Need.ALWAYS:
            stage = StartPhase.MISSING
        if stage in DONE and not row.ready_ms:
            row.ready_ms = max(1, now_ms - self.began_ms)
        row.stage, row.note, row.model, row.facts = stage, lease.note, lease.model, lease.facts

    def loading(self, model: str, progress: float, stage: str) -> None:
        """Note the progress (0 to 1) of a model that loads."""
        for row in self.rows.values():
            if row.model == model and row.stage is StartPhase.LOADING:
                row.note = f"{stage} {progress:.0%}"

    @property
    def ready(self) -> bool:
        """Whether every process works, except those that may be missing."""
        rows = self.rows.values()
        settled = DONE if self.wait is Wait.ALL else (*DONE, StartPhase.MISSING)
        return bool(rows) and all(row.stage in settled for row in rows) and not _all_missing(rows)

    @property
    def missing(self) -> dict[str, str]:
        """The missing processes by name, each with the reason."""
        return {row.name: row.note for row in self.rows.values() if row.stage is StartPhase.MISSING}


def _all_missing(rows: Iterable[ProcessRow]) -> bool:
    """Whether all processes with Need.ONE are missing."""
    stages = [row.stage for row in rows if row.need is Need.ONE]
    return bool(stages) and all(stage is StartPhase.MISSING for stage in stages)


def hopeless(rows: Sequence[ProcessRow]) -> ProcessRow | None:
    """Return the process because of which the start cannot succeed; None if there is none."""
    for row in rows:
        if _is_hopeless(row):
            return row
    return next((row for row in rows if row.need is Need.ONE), None) if _all_missing(rows) else None


def _is_hopeless(row: ProcessRow) -> bool:
    if row.ready_ms:
        return False
    if row.exit_code in WRONG_SETTING:
        return True
    if row.need is not Need.ALWAYS or row.exit_code == ExitCode.BUS_DOWN:
        return False
    return row.stage is StartPhase.FAILED or row.restarts >= HOPELESS_RESTARTS


def stage_of(lease: ServiceLease) -> StartPhase:
    """Return the stage of a service from its lease."""
    works = lease.facts.ready
    match lease.health:
        case Health.STARTING:
            return StartPhase.LOADING
        case Health.DRAINING:
            return StartPhase.DRAINING
        case Health.DEGRADED:
            return StartPhase.DEGRADED if works else StartPhase.FAILED
    return StartPhase.READY if works else StartPhase.LOADING


def shown_stage(lease: ServiceLease) -> StartPhase:
    """Like `stage_of`, for display: a drafter or relay that failed is shown as missing."""
    stage = stage_of(lease)
    return StartPhase.MISSING if stage is StartPhase.FAILED and lease.service in OPTIONAL_SERVICES else stage
