"""The exit codes of twd; `twd help exit-codes` prints this table."""

import enum
from typing import Final

from twd.wire.failures import FailureCode


class ExitCode(enum.IntEnum):
    """Every exit code that twd uses."""

    OK = 0
    FAULT = 1
    USAGE = 2
    UNHEALTHY = 3
    NOTHING_RUNS = 4
    ALREADY_RUNNING = 5
    CONFIG = 6
    CANNOT_START = 7
    BUS_DOWN = 8
    NOT_FOUND = 9
    DIFFERENT = 10
    WORKER_LOST = 11
    INTERRUPTED = 130


MEANING: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done, or everything is well",
    ExitCode.FAULT: "a fault in twd itself; the log has it",
    ExitCode.USAGE: "a wrong option or argument, or one that is missing",
    ExitCode.UNHEALTHY: "something runs but is not well",
    ExitCode.NOTHING_RUNS: "nothing runs here, or nobody answers",
    ExitCode.ALREADY_RUNNING: "another supervisor holds this TWD_HOME",
    ExitCode.CONFIG: "the configuration is wrong; the message names the place",
    ExitCode.CANNOT_START: "a service cannot start, or was not ready in time",
    ExitCode.BUS_DOWN: "the message bus cannot be reached",
    ExitCode.NOT_FOUND: "what was named is not there: a model, file, key, job, service or log",
    ExitCode.DIFFERENT: "a check found differences",
    ExitCode.WORKER_LOST: "a machine of the model's pool is gone, or the model goes elsewhere; it comes back at once",
    ExitCode.INTERRUPTED: "ended by a second Ctrl-C",
}

REFUSED: Final = frozenset({ExitCode.USAGE, ExitCode.CONFIG, ExitCode.CANNOT_START, ExitCode.NOT_FOUND})
"""Exit codes of a service that cannot start because of its input or setup: a quick restart seldom helps."""

_OF_FAILURE: Final[dict[FailureCode, ExitCode]] = {
    FailureCode.BAD_REQUEST: ExitCode.CONFIG,
    FailureCode.UNSUPPORTED: ExitCode.CONFIG,
    FailureCode.MODEL_LOAD: ExitCode.CANNOT_START,
    FailureCode.OUT_OF_MEMORY: ExitCode.CANNOT_START,
    FailureCode.BUSY: ExitCode.CANNOT_START,
    FailureCode.MODEL_NOT_FOUND: ExitCode.NOT_FOUND,
    FailureCode.NOBODY_HOME: ExitCode.NOTHING_RUNS,
    FailureCode.BUS_DOWN: ExitCode.BUS_DOWN,
    FailureCode.UNAUTHENTICATED: ExitCode.BUS_DOWN,
    FailureCode.FORBIDDEN: ExitCode.BUS_DOWN,
    FailureCode.DEADLINE: ExitCode.NOTHING_RUNS,
    FailureCode.NO_SOURCE: ExitCode.NOTHING_RUNS,
    FailureCode.DISK_FULL: ExitCode.CANNOT_START,
    FailureCode.WRONG_BYTES: ExitCode.DIFFERENT,
    FailureCode.BACKEND_DOWN: ExitCode.NOTHING_RUNS,
    FailureCode.BACKEND_BROKEN: ExitCode.NOTHING_RUNS,
    FailureCode.RATE_LIMITED: ExitCode.NOTHING_RUNS,
}


def exit_code_of(code: FailureCode) -> ExitCode:
    """Return the exit code for a failure code."""
    return _OF_FAILURE.get(code, ExitCode.FAULT)
