"""`twd down`: end the instance that holds this TWD_HOME, and no other."""

import json
import sys
import time
from typing import Final

import click

from twd.cli.common.context import CliContext
from twd.cli.common.numbers import SECONDS
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.process import platform
from twd.process.hang import RunState
from twd.process.home import RunningInstance, StateFolder

PATIENCE_S: Final = 45.0
KILLED_S: Final = 5.0
BORN_TOLERANCE_S: Final = 2.0
TELL_S: Final = 1.5
"""Who waits for longer than this wants to know for what."""


@click.command()
@click.option("--timeout", default=PATIENCE_S, show_default=True, type=SECONDS, help="Seconds until it is killed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def down(ctx: CliContext, timeout: float, as_json: bool) -> ExitCode:
    """Drain and end everything that `twd up` started here. It is no error when nothing runs."""
    home = ctx.home
    instance = ctx.instance()
    if instance is None:
        _report(as_json, {"ended": False}, f"nothing runs in {home.path}")
        return ExitCode.OK
    _check(home, instance)
    began = time.monotonic()
    platform.ask_to_stop(instance.pid)
    if platform.run_of(instance.pid) is RunState.STOPPED:  # it hears nobody
        timeout = 0.0
    in_time = _wait(home, timeout, tells=not as_json and sys.stderr.isatty())
    if not in_time:
        _kill(home, instance)
    took = time.monotonic() - began
    how = "ended" if in_time else f"killed after {timeout:g} s" if timeout else "killed"
    _report(as_json, {"ended": True, "killed": not in_time, "pid": instance.pid, "took_s": round(took, 2)}, how)
    return ExitCode.OK


def _kill(home: StateFolder, instance: RunningInstance) -> None:
    """Everything at once; a supervisor that a script started leads no group, and what it started ends with it."""
    pid = instance.pid
    if instance.guard:  # first, so that it starts no other one
        platform.kill(instance.guard)
    platform.kill_group(pid)
    platform.kill(pid)
    if not _wait(home, KILLED_S):
        raise CommandError(ExitCode.FAULT, f"pid {pid} still holds {home.path} {KILLED_S:g} s after it was killed")


def _report(as_json: bool, facts: dict[str, object], words: str) -> None:
    if as_json:
        click.echo(json.dumps(facts))
    elif "pid" in facts:
        click.echo(f"{words}: pid {facts['pid']}, {facts['took_s']} s")
    else:
        click.echo(words)


def _check(home: StateFolder, instance: RunningInstance) -> None:
    """The lock says that somebody is there; this says that the record is about them."""
    born = platform.born(instance.pid)
    if born is None or abs(born - instance.born) > BORN_TOLERANCE_S:
        raise CommandError(
            ExitCode.FAULT,
            f"{home.path} is held, but its record names pid {instance.pid}, another process; nothing was ended",
        )


def _wait(home: StateFolder, timeout_s: float, tells: bool = False) -> bool:
    began, told = time.monotonic(), ""
    while home.held():
        waited_s = time.monotonic() - began
        if waited_s > timeout_s:
            return False
        if tells and waited_s > TELL_S and (left := _left(home)) and left != told:
            told = left
            click.echo(f"waiting for {left} (at most {timeout_s:g} s; --timeout 0 kills at once)", err=True)
        time.sleep(0.05)
    return True


def _left(home: StateFolder) -> str:
    """The processes that have not ended yet; models finish their jobs first."""
    instance, _ = home.read_instance()
    there = [name for name, pid in (instance.processes if instance else {}).items() if pid and platform.born(pid)]
    return ", ".join(sorted(there))
