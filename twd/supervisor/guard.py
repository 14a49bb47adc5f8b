"""The guard of `twd up`: the process that started the supervisor and does nothing but watch it.

A supervisor that is killed or hangs is started again, with all its processes. Whoever ends the guard ends the
supervisor, too. A service manager watches by itself, so what it starts has no guard.
"""

import os
import select
import signal
import time
from typing import Final, NamedTuple

from twd.kit.exit_codes import ExitCode
from twd.process import platform
from twd.process.hang import HangPolicy, RunState, Silence
from twd.process.heartbeat import VARIABLE, Beats

CALM_S: Final = 1.0
"""Seconds to wait after the supervisor's end, until its processes have ended and the ports are free."""
TRIES: Final = 5
"""Failed starts in a row before the guard gives up; a new supervisor may find a port still in use."""
LASTED_S: Final = 60.0


class Guard(NamedTuple):
    """What a supervisor is told of its guard."""

    pid: int = 0
    """Process id of the guard; 0: there is none."""
    before: str = ""
    """How the supervisor before this one ended; empty for the first one."""
    in_terminal: bool = False
    """What it guards was started without -d."""


NOBODY: Final = Guard()


def guard(policy: HangPolicy, terminal: bool = False) -> Guard:
    """Become the guard, and return only in the supervisor, its child. Call it before the first thread starts.

    `terminal`: a Ctrl-C there is for the guard alone, which passes it on, so that it counts once.
    """
    if not platform.can_adopt() or not policy.watches:
        return Guard(in_terminal=terminal)
    guard_pid, failures, before = os.getpid(), 0, ""
    while True:
        beats, began = Beats(), time.monotonic()
        pid = os.fork()
        if not pid:
            if terminal:
                _leave_terminal()
            _become_supervisor(guard_pid, beats)
            return Guard(guard_pid, before, terminal)
        status, hung = _watch(pid, beats, policy)
        beats.close()
        failures = 0 if time.monotonic() - began > LASTED_S else failures + 1
        if os.WIFEXITED(status) and (not before or not os.WEXITSTATUS(status) or failures > TRIES):
            os._exit(os.WEXITSTATUS(status))
        if failures > TRIES:
            os._exit(ExitCode.FAULT)
        before = hung or f"it ended with code {os.waitstatus_to_exitcode(status)}"
        time.sleep(CALM_S)


def _leave_terminal() -> None:
    """Lead a group of its own, which may write to the terminal nevertheless."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.setpgid(0, 0)


def _become_supervisor(guard_pid: int, beats: Beats) -> None:
    for number in platform.STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    platform.hold_on_to_parent({platform.PARENT_VARIABLE: str(guard_pid)})
    os.environ[VARIABLE] = f"/proc/{guard_pid}/fd/{beats.path.rpartition('/')[2]}"


def _watch(pid: int, beats: Beats, policy: HangPolicy) -> tuple[int, str]:
    """Wait until the supervisor has ended, killing it if it hangs. Return its wait status, and why it was hung, if it
    was."""
    for number in platform.STOP_SIGNALS:
        signal.signal(number, lambda asked, _: _pass_on(pid, asked))
    silence, ended, hung = Silence(policy), select.poll(), ""
    handle = os.pidfd_open(pid)
    ended.register(handle, select.POLLIN)
    while not ended.poll(policy.look_s * 1000):
        run = RunState.TRACED if platform.run_of(pid) is RunState.TRACED else RunState.RUNS
        hung = silence.look(time.monotonic(), run, beats.read() or None) or hung
        if hung:
            platform.kill(pid)
    os.close(handle)
    return os.waitpid(pid, 0)[1], hung


def _pass_on(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
