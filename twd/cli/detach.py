"""`twd up -d`: the supervisor as a process of its own; this one waits until it is ready, and leaves."""

import asyncio
import subprocess
from collections.abc import Sequence
from typing import Final

import click
import msgspec

from twd.cli.common.context import CliContext
from twd.cli.run import twd_command
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.terminal import let_go_of_stdout
from twd.process import platform
from twd.process.log_files import LogFile
from twd.process.process_table import DONE, hopeless
from twd.supervisor.start_display import StartSnapshot, StartView

ENDING_S: Final = 40.0


def start_detached(
    ctx: CliContext,
    services: tuple[str, ...],
    demo: bool,
    view: StartView,
    timeout_s: float,
    more: tuple[str, ...] = (),
) -> ExitCode:
    """Start the supervisor apart from this terminal, and wait until everything is ready. `more`: options of `up`."""
    config = ("-c", ctx.config) if ctx.config else ()
    command = twd_command(*config, "up", "--report", *(("--demo",) if demo else ()), *more, *services)
    log = LogFile(ctx.home.logs, "supervisor")
    log.begin_run()
    with log.path.open("ab") as errors:
        # not asyncio's own: from Python 3.12 on that kills what still runs when this process leaves
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, **platform.spawn_options()
        )
    return asyncio.run(_watch(supervisor, log, view, timeout_s))


async def _watch(supervisor: "subprocess.Popen[bytes]", log: LogFile, view: StartView, timeout_s: float) -> ExitCode:
    seen: list[StartSnapshot] = []
    try:
        async with asyncio.timeout(timeout_s):
            await _until_ready(supervisor, view, log, seen)
    except TimeoutError:
        await _end(supervisor)
        text = f"not ready within {timeout_s:g} s{_why(seen)}; it was ended again"
        raise CommandError(ExitCode.CANNOT_START, text) from None
    except BaseException:
        await _end(supervisor)
        raise
    finally:
        view.close()
    return ExitCode.OK


def _why(seen: Sequence[StartSnapshot]) -> str:
    """What was waited for, as the last picture shows it."""
    if not seen:
        return ""
    waited = [f"{row.name} is {row.stage}: {row.note}" for row in seen[-1].rows if row.stage not in DONE and row.note]
    return "".join(f", {text}" for text in waited or filter(None, [seen[-1].note]))


async def _until_ready(
    supervisor: "subprocess.Popen[bytes]", view: StartView, log: LogFile, seen: list[StartSnapshot]
) -> None:
    """`seen` holds the last picture."""
    assert supervisor.stdout is not None
    while line := await asyncio.to_thread(supervisor.stdout.readline):
        picture = msgspec.json.decode(line, type=StartSnapshot)
        seen[:] = [picture]
        if picture.exit_code >= 0:
            await asyncio.to_thread(supervisor.wait)
            raise CommandError(ExitCode(picture.exit_code), picture.note)
        try:
            view.show(picture)
        except BrokenPipeError:  # whoever read along went away; what was started is wanted even so
            let_go_of_stdout()
        if picture.ready_ms:
            return
        if row := hopeless(picture.rows):
            raise CommandError(ExitCode.CANNOT_START, f"{row.name} cannot start: {row.note}")
    code = await asyncio.to_thread(supervisor.wait)
    if code == 0:
        raise CommandError(ExitCode.CANNOT_START, "it was ended while it started, as `twd down` does")
    raise CommandError(ExitCode.CANNOT_START, f"the supervisor ended with exit code {code}: {log.last_words()[-500:]}")


async def _end(supervisor: "subprocess.Popen[bytes]") -> None:
    if supervisor.poll() is None:
        click.echo("ending what was started", err=True)
        platform.ask_to_stop(supervisor.pid)
        try:
            await asyncio.to_thread(supervisor.wait, ENDING_S)
        except subprocess.TimeoutExpired:
            platform.kill_group(supervisor.pid)
