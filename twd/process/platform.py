"""All differences between operating systems, in one place.

How a child ends with its parent: on Linux the kernel kills it (parent-death signal). Elsewhere it inherits a pipe, the
lifeline: only the parent holds the write end, and a thread in the child waits until it is closed.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any, Final

from twd.process.hang import RunState

IS_LINUX: Final = sys.platform.startswith("linux")
IS_WINDOWS: Final = sys.platform == "win32"

PARENT_VARIABLE: Final = "TWD_PARENT_PID"
LIFELINE_VARIABLE: Final = "TWD_LIFELINE_FD"
STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PARENT_TIE: Final = str(Path(__file__).with_name("exec_tied_to_parent.py"))


class Lifeline:
    """Held by a parent process so that its children end with it."""

    def __init__(self, use_pipe: bool = not IS_LINUX and not IS_WINDOWS) -> None:
        self._ends = os.pipe() if use_pipe else None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a child needs."""
        lifeline = {LIFELINE_VARIABLE: str(self._ends[0])} if self._ends else {}
        return {PARENT_VARIABLE: str(os.getpid()), **lifeline}

    @property
    def inherited(self) -> tuple[int, ...]:
        """The file descriptors that a child must inherit."""
        return (self._ends[0],) if self._ends else ()

    def close(self) -> None:
        """Close the pipe: children that wait on it end now."""
        for end in self._ends or ():
            os.close(end)
        self._ends = None


def hold_on_to_parent(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make this process end when its parent ends, if that passed a Lifeline; call it before anything else."""
    parent = int(environment.pop(PARENT_VARIABLE, "0"))
    lifeline = environment.pop(LIFELINE_VARIABLE, "")
    if not parent:
        return
    if lifeline:
        _in_background(lambda: _until_closed(int(lifeline)))
    elif IS_LINUX:
        end_with_parent_thread()
    else:
        _in_background(lambda: _until_gone(parent))
    if os.getppid() != parent:
        os._exit(1)


def end_with_parent_thread() -> None:
    """Ask the Linux kernel to kill this process when its parent ends; this stays set after exec."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def can_adopt() -> bool:
    """Whether a fork server can be used here. Linux only, and not where a container's rules forbid one of the calls.

    This process must be able to become the parent of its children's children, and a fork must be safe after libraries
    are loaded.
    """
    if not IS_LINUX or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def adopt_orphans() -> bool:
    """Become the parent of orphans of our children; returns whether that worked. Linux only."""
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def ended_children() -> set[int]:
    """Return the pids of children that have ended and were not waited for."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return set()
    except ChildProcessError:
        return set()
    import psutil

    return {child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE}


def reap(ended: Iterable[int]) -> None:
    """Wait for children that have ended; those that somebody else waited for are ignored."""
    for pid in ended:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _in_background(wait: Callable[[], None]) -> None:
    def watch() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _until_closed(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass


def _until_gone(parent: int) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()


def tied_to_parent(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command line that runs a foreign program so that it ends with its parent, too."""
    if IS_WINDOWS:
        return argv
    return (sys.executable, "-I", "-S", _PARENT_TIE, *argv)


def spawn_options() -> dict[str, Any]:
    """Return the options that start a child outside our terminal's group, so that Ctrl-C reaches only us."""
    if IS_WINDOWS:
        return {"creationflags": 0x00000200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}


def disk_bytes(stat: os.stat_result) -> int:
    """Return the bytes that a file takes on disk, without its holes."""
    return getattr(stat, "st_blocks", 0) * 512 or stat.st_size


LOWEST_RANK: Final = 19


def yield_to_others(rank: int = LOWEST_RANK) -> None:
    """Raise the nice value of this thread, and of threads that it starts, by `rank` above that of the process.

    0 undoes that, if the system allows it. Does nothing where threads have no nice value of their own.
    """
    if IS_LINUX:
        usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(LOWEST_RANK, usual + rank))


def born(pid: int) -> float | None:
    """Return the start time of a process; None if there is no such process."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def run_of(pid: int) -> RunState:
    """Return whether a process runs, is stopped or is traced; one that is gone or unknown counts as running."""
    if not IS_LINUX:
        return _run_by_psutil(pid)
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return RunState.RUNS
    if b"\nTracerPid:\t0\n" not in status:
        return RunState.TRACED
    return RunState.STOPPED if b"\nState:\tT" in status else RunState.RUNS


def _run_by_psutil(pid: int) -> RunState:
    import psutil

    try:
        return RunState.STOPPED if psutil.Process(pid).status() == psutil.STATUS_STOPPED else RunState.RUNS
    except psutil.Error:
        return RunState.RUNS


def ask_to_stop(pid: int) -> None:
    """Ask a process to drain; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def kill(pid: int) -> None:
    """Kill a process; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM if IS_WINDOWS else signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Kill a process and all processes of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if IS_WINDOWS:
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL)


def on_stop_signals(loop: asyncio.AbstractEventLoop, react: Callable[[], None]) -> None:
    """Call `react` on the loop at each Ctrl-C or request to end."""
    for number in STOP_SIGNALS:
        if IS_WINDOWS:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(react))
        else:
            loop.add_signal_handler(number, react)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file until this process ends; returns False if another process has the lock."""
    try:
        if IS_WINDOWS:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def lock_within(
    descriptor: int,
    patience_s: float,
    look_s: float = 0.01,
    *,
    shared: bool = False,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Lock an open file as soon as other processes let it go; returns False if one still has it after so long."""
    give_up = clock() + patience_s
    while not try_lock(descriptor, shared=shared):
        if clock() >= give_up:
            return False
        pause(look_s)
    return True


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
