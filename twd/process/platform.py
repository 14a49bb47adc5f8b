"""Every difference between operating systems, in one place.

How a child dies with its parent: on Linux the kernel does it (a parent-death signal). Elsewhere a
lifeline does: a pipe that only the parent holds open, and whose end a thread in the child waits for.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
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
    """What a parent holds so that its children end with it."""

    def __init__(self, use_pipe: bool = not IS_LINUX and not IS_WINDOWS) -> None:
        self._ends = os.pipe() if use_pipe else None

    @property
    def environment(self) -> dict[str, str]:
        """What a child must find in its environment to hold on."""
        lifeline = {LIFELINE_VARIABLE: str(self._ends[0])} if self._ends else {}
        return {PARENT_VARIABLE: str(os.getpid()), **lifeline}

    @property
    def inherited(self) -> tuple[int, ...]:
        """File descriptors that a child must inherit."""
        return (self._ends[0],) if self._ends else ()

    def close(self) -> None:
        """Let go: children that hold on by the pipe end now."""
        for end in self._ends or ():
            os.close(end)
        self._ends = None


def hold_on_to_parent(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make this process end when the parent that started it with a Lifeline ends; call it first of all."""
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
    """Ask the Linux kernel to kill this process when its parent ends; outlives exec."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def can_adopt() -> bool:
    """Whether what our children start can become ours, and a fork is safe once libraries are loaded: on Linux, except
    where a container's rules forbid one of the calls."""
    if not IS_LINUX or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def adopt_orphans() -> bool:
    """Become the parent of what our children started, when these end; whether that was allowed. Linux alone."""
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def ended_children() -> set[int]:
    """The children that have ended and nobody has asked how."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return set()
    except ChildProcessError:
        return set()
    import psutil

    return {child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE}


def reap(ended: Iterable[int]) -> None:
    """Let go of children that have ended; one that somebody asked about meanwhile is gone already."""
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
    """A command line that runs a foreign program so that it, too, ends with its parent."""
    if IS_WINDOWS:
        return argv
    return (sys.executable, "-I", "-S", _PARENT_TIE, *argv)


def spawn_options() -> dict[str, Any]:
    """How a child is started apart from our terminal, so that Ctrl-C reaches only us."""
    if IS_WINDOWS:
        return {"creationflags": 0x00000200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}


def disk_bytes(stat: os.stat_result) -> int:
    """What a file takes on disk, its holes left out."""
    return getattr(stat, "st_blocks", 0) * 512 or stat.st_size


LOWEST_RANK: Final = 19


def yield_to_others(rank: int = LOWEST_RANK) -> None:
    """Let this thread, and those that it starts, run so many ranks below the process.

    0 takes that back, where the system allows it. Where threads have no rank of their own, nothing happens.
    """
    if IS_LINUX:
        usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(LOWEST_RANK, usual + rank))


def born(pid: int) -> float | None:
    """When a process began, or None when there is no such process."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def run_of(pid: int) -> RunState:
    """Whether the system lets a process run; one that is gone, or of which nothing is told, counts as running."""
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
    """Tell a process to drain; a process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def kill(pid: int) -> None:
    """End a process at once; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM if IS_WINDOWS else signal.SIGKILL)


def kill_group(pid: int) -> None:
    """End a process and all that it started, at once."""
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
    """Take a lock on an open file that ends with the process; False when somebody else has it."""
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


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop there is here."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
