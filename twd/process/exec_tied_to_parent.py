"""Run a foreign program so that it ends with its parent: `python -I -S exec_tied_to_parent.py PROGRAM ARG...`.

This script imports no twd module and little else, because it runs before every start of the broker. On Linux it becomes
the program by exec: the kernel kills it when the parent ends, and TWD_TIMER_SLACK_NS sets its timer slack in ns.
Elsewhere it stays as the parent of the program, passes signals on, and kills it when the lifeline closes.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_TIMERSLACK = 1, 29


def become(program: list[str], parent: int, slack_ns: int) -> None:
    """Linux: set the parent-death signal and the timer slack in ns, then exec the program."""
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if slack_ns:
        prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    os.execvp(program[0], program)


def stay_beside(program: list[str], lifeline: int) -> int:
    """Other systems: run the program as a child, kill it when the lifeline closes, and return its exit code."""
    import subprocess
    import threading

    early: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    child = started = subprocess.Popen(program)
    for asked in early:
        started.send_signal(asked)

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        started.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = started.wait()
    return code if code >= 0 else 128 - code


def main() -> None:
    """Use the method of this operating system."""
    program, parent = sys.argv[1:], int(os.environ.pop("TWD_PARENT_PID", "0"))
    lifeline, slack = os.environ.pop("TWD_LIFELINE_FD", ""), os.environ.pop("TWD_TIMER_SLACK_NS", "0")
    try:
        if lifeline:
            sys.exit(stay_beside(program, int(lifeline)))
        if parent and sys.platform.startswith("linux"):
            become(program, parent, int(slack))
        os.execvp(program[0], program)
    except OSError as error:
        sys.stderr.write(f"{program[0]} cannot be started: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
