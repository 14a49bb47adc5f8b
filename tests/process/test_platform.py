"""Nobody outlives its parent: by the kernel's signal, and by the lifeline where there is none."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.waiting import alive, wait_until
from twd.process import platform

PARENT = """
import subprocess, sys, time
from twd.process import platform
lifeline = platform.Lifeline(use_pipe=sys.argv[1] == "pipe")
import os
kind, program = sys.argv[2], sys.argv[3:]
argv = platform.tied_to_parent(tuple(program)) if kind == "foreign" else (sys.executable, "-c", {child!r})
child = subprocess.Popen(
    argv, env={{**os.environ, **lifeline.environment}}, pass_fds=lifeline.inherited, stdout=subprocess.PIPE,
    **platform.spawn_options(),
)
print(child.pid, flush=True)
if kind == "own":
    child.stdout.readline()
print("ready", flush=True)
time.sleep(600)
"""
OWN = """
from twd.process import platform
import time
platform.hold_on_to_parent()
print("held", flush=True)
time.sleep(600)
"""
EARLY = """
import os, signal, subprocess, sys
from twd.process import exec_tied_to_parent
start = subprocess.Popen
def too_late(program):
    os.kill(os.getpid(), signal.SIGTERM)
    return start(program)
subprocess.Popen = too_late
sys.exit(exec_tied_to_parent.stay_beside([sys.executable, "-c", "import time; time.sleep(600)"], int(sys.argv[1])))
"""


def start_parent(*arguments: str) -> tuple[subprocess.Popen[str], int]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(child=OWN), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "ready\n"
    return parent, child


@pytest.mark.parametrize("way", ["kernel", "pipe"])
@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_a_child_ends_with_its_parent(way: str, kind: str) -> None:
    if way == "kernel" and not platform.IS_LINUX:
        pytest.skip("only Linux has a parent-death signal")
    parent, child = start_parent(way, kind, "sleep", "600")
    assert alive(child)
    with parent:
        parent.kill()
    wait_until(lambda: not alive(child), "the child is gone")


@pytest.mark.skipif(not platform.IS_LINUX, reason="only Linux has a parent-death signal")
def test_a_leashed_program_ends_with_its_parent_even_when_it_is_stopped() -> None:
    parent, child = start_parent("kernel", "foreign", "sleep", "600")
    program = psutil.Process(child)
    wait_until(lambda: program.name() == "sleep", "the leash has become the program")
    program.suspend()
    wait_until(lambda: program.status() == psutil.STATUS_STOPPED, "it stands still")
    with parent:
        parent.kill()
    wait_until(lambda: not alive(child), "the child is gone")


@pytest.mark.skipif(not platform.IS_LINUX, reason="only Linux lets timers be late")
def test_a_leashed_programs_timers_have_the_slack_that_was_asked_for() -> None:
    argv = platform.tied_to_parent(("cat", "/proc/self/timerslack_ns"))
    environment = {**os.environ, **platform.Lifeline().environment, "TWD_TIMER_SLACK_NS": "1000000"}
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, timeout=30, check=True)
    assert done.stdout == "1000000\n"


def test_a_leash_beside_its_program_passes_signals_and_the_exit_code_on(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(600)"
    )
    lifeline = platform.Lifeline(use_pipe=True)
    argv = platform.tied_to_parent((sys.executable, "-c", script))
    environment = {**os.environ, **lifeline.environment}
    with subprocess.Popen(
        argv, env=environment, pass_fds=lifeline.inherited, stdout=subprocess.PIPE, text=True
    ) as parent_tie:
        assert parent_tie.stdout is not None
        assert parent_tie.stdout.readline() == "up\n"
        platform.ask_to_stop(parent_tie.pid)
        assert parent_tie.wait(20) == 7
    lifeline.close()


def test_a_signal_that_comes_before_the_program_runs_is_passed_on() -> None:
    lifeline, far_end = os.pipe()
    early = [sys.executable, "-c", EARLY, str(lifeline)]
    done = subprocess.run(early, pass_fds=(lifeline,), timeout=30, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    os.close(lifeline)
    os.close(far_end)


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    orphan = [sys.executable, "-c", OWN]
    environment = {**os.environ, platform.PARENT_VARIABLE: "1"}
    assert subprocess.run(orphan, env=environment, timeout=30, check=False).returncode == 1


def test_grandchildren_are_not_mistaken_for_children() -> None:
    environment = {platform.PARENT_VARIABLE: str(os.getppid()), platform.LIFELINE_VARIABLE: ""}
    platform.hold_on_to_parent(environment)
    assert environment == {}


def test_no_lifeline_is_no_concern() -> None:
    environment = {"PATH": "/bin"}
    threads = threading.active_count()
    platform.hold_on_to_parent(environment)
    assert environment == {"PATH": "/bin"}
    assert threading.active_count() == threads


def test_a_process_is_told_by_when_it_was_born() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as younger:
        ours, theirs = platform.born(os.getpid()), platform.born(younger.pid)
    assert ours is not None
    assert theirs is not None
    assert platform.born(os.getpid()) == ours < theirs
    assert platform.born(2**22 + 12345) is None


def test_signals_to_the_dead_are_no_error() -> None:
    gone = subprocess.Popen(["true"])
    assert gone.wait(10) == 0
    assert not alive(gone.pid)
    platform.ask_to_stop(gone.pid)
    platform.kill_group(gone.pid)


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    one, other = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert platform.try_lock(one)
    assert not platform.try_lock(other)
    assert not platform.try_lock(other, shared=True)
    os.close(one)
    assert platform.try_lock(other, shared=True)
    os.close(other)
