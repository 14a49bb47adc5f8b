"""Who guards the supervisor of `twd up -d`: the process that started it, which does nothing else.

A supervisor that is killed, or shows no sign of life, is started anew, and with it everything that it kept alive.
Whoever ends the guard ends the supervisor, too.
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
"""After its end, until what it had started is gone and the ports are free."""
TRIES: Final = 5
"""A new supervisor may find a port still taken, but not so often in a row."""
LASTED_S: Final = 60.0


class Guard(NamedTuple):
    """What a supervisor knows of its guard."""

    pid: int = 0
    """0: nobody guards it."""
    before: str = ""
    """What became of the supervisor before this one."""


NOBODY: Final = Guard()


def guard(policy: HangPolicy) -> Guard:
    """Return in the supervisor. To be called before the first thread; the guard itself never returns."""
    if not platform.can_adopt() or not policy.watches:
        return NOBODY
    guard_pid, failures, before = os.getpid(), 0, ""
    while True:
        beats, began = Beats(), time.monotonic()
        pid = os.fork()
        if not pid:
            _become_supervisor(guard_pid, beats)
            return Guard(guard_pid, before)
        status, hung = _watch(pid, beats, policy)
        beats.close()
        failures = 0 if time.monotonic() - began > LASTED_S else failures + 1
        if os.WIFEXITED(status) and (not before or not os.WEXITSTATUS(status) or failures > TRIES):
            os._exit(os.WEXITSTATUS(status))
        if failures > TRIES:
            os._exit(ExitCode.FAULT)
        before = hung or f"it ended with code {os.waitstatus_to_exitcode(status)}"
        time.sleep(CALM_S)


def _become_supervisor(guard_pid: int, beats: Beats) -> None:
    for number in platform.STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    platform.hold_on_to_parent({platform.PARENT_VARIABLE: str(guard_pid)})
    os.environ[VARIABLE] = f"/proc/{guard_pid}/fd/{beats.path.rpartition('/')[2]}"


def _watch(pid: int, beats: Beats, policy: HangPolicy) -> tuple[int, str]:
    """Until the supervisor has ended, by itself or as hung; how it ended, and in words why it was hung."""
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
