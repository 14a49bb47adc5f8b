"""`twd logs`: what the processes wrote, of all restarts."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import click

from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.terminal import printable
from twd.setup.units.journal import Journal, journal_of

LOOK_S: Final = 1.0
LAST_BYTES: Final = 256 * 1024
SERVICE: Final = "service"
COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red"}


@click.command()
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "-n", "--lines", default=20, show_default=True, type=click.IntRange(min=0), help="Lines of each log to begin with."
)
@click.option("--json", "as_json", is_flag=True, help="Lines as they were written.")
@click.option("--clear", is_flag=True, help="Empty the logs instead.")
@click.pass_obj
def logs(ctx: CliContext, services: tuple[str, ...], follow: bool, lines: int, as_json: bool, clear: bool) -> ExitCode:
    """The last lines of each process' log, or of those that are named.

    Without names: of those that wrote something since `twd up`, where it runs. `service` is what the system's journal
    holds of a service that `twd service install` made: what the service manager did, and what `twd up` said.
    """
    journal = _journal(ctx, services)
    files = _files(ctx.home.logs, tuple(name for name in services if journal is None or name != SERVICE))
    files = [] if services == (SERVICE,) and journal else files
    if clear:
        for file in files:
            for part in [file, *file.parent.glob(f"{file.name}.*")]:
                part.write_bytes(b"")
        click.echo(f"{len(files)} logs emptied")
        return ExitCode.OK
    if not files and journal is None and not follow:
        raise CommandError(ExitCode.NOT_FOUND, f"no log in {ctx.home.logs} yet; `twd up` starts what writes them")
    with_name = len(files) + (journal is not None) != 1
    opened: dict[str, IO[str]] = {file.stem: file.open(errors="replace") for file in files}
    old = set() if services else _of_earlier(ctx, files)
    for line in journal.last(lines) if journal else ():
        _show(SERVICE if with_name else "", line, as_json)
    for name, stream in opened.items():
        for line in _last_lines(stream, 0 if name in old else lines, follow):
            _show(name if with_name else "", line, as_json)
    if old:
        click.echo(f"from before the last start, shown when named: {', '.join(sorted(old))}", err=True)
    if follow:
        look = () if services == (SERVICE,) and journal else services
        _follow(
            opened, lambda: _chosen(ctx.home.logs, services) if look == services else [], with_name, as_json, journal
        )
    return ExitCode.OK


def _journal(ctx: CliContext, services: tuple[str, ...]) -> Journal | None:
    """The journal of the service that has this state folder, if it is wanted and there is one."""
    if services and SERVICE not in services:
        return None
    from twd.setup.units.system import LocalSystem

    return journal_of(LocalSystem(), str(ctx.home.path))


def _files(folder: Path, services: tuple[str, ...]) -> list[Path]:
    chosen = _chosen(folder, services)
    unknown = [name for name in services if not any(name in (file.stem, file.stem.split(".")[0]) for file in chosen)]
    if unknown:
        known = ", ".join(file.stem for file in _chosen(folder, ())) or "none yet"
        raise CommandError(ExitCode.NOT_FOUND, f"no log of {', '.join(unknown)}; there are: {known}")
    return chosen


def _chosen(folder: Path, services: tuple[str, ...]) -> list[Path]:
    there = sorted(folder.glob("*.log"))
    return [file for file in there if not services or file.stem in services or file.stem.split(".")[0] in services]


def _of_earlier(ctx: CliContext, files: list[Path]) -> set[str]:
    """Logs of processes that an earlier installation had, and the one that runs now has not."""
    instance = ctx.instance()
    since_s = instance.started_ms / 1000 if instance else 0.0
    return {file.stem for file in files if file.stat().st_mtime < since_s}


def _last_lines(stream: IO[str], count: int, follow: bool) -> list[str]:
    """Of what is there; the stream stands where following it goes on then."""
    size = stream.seek(0, 2)
    if not count:
        return []
    stream.seek(max(0, size - LAST_BYTES))
    return (list(_whole_lines(stream)) if follow else stream.readlines())[-count:]


def _follow(
    opened: dict[str, IO[str]],
    look: Callable[[], list[Path]],
    with_name: bool,
    as_json: bool,
    journal: Journal | None = None,
) -> None:
    """Go on for ever; logs of processes that start later are followed from their first line."""
    while True:
        for file in look():
            if file.stem not in opened:
                opened[file.stem] = file.open(errors="replace")
                with_name = True
        for name, stream in opened.items():
            read = stream.tell()
            stream.seek(0 if read > stream.seek(0, 2) else read)  # a log that was rotated begins again
            for line in _whole_lines(stream):
                _show(name if with_name else "", line, as_json)
        for line in journal.news() if journal else ():
            _show(SERVICE if with_name else "", line, as_json)
        sys.stdout.flush()
        time.sleep(LOOK_S)


def _whole_lines(stream: IO[str]) -> Iterator[str]:
    """What came since the last look; a line that is still being written is read again when it is whole."""
    while True:
        begin = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(begin)
            return
        yield line


def _show(name: str, line: str, as_json: bool) -> None:
    prefix = f"{name}: " if name and not as_json else ""
    click.echo(prefix + (printable(line.rstrip("\n")) if as_json else readable(line)))


def readable(line: str) -> str:
    """A line of JSON as people like it; any other line as it is. Of neither a terminal obeys anything."""
    line = line.rstrip("\n")
    if not line.startswith('{"at"'):
        return printable(line)
    try:
        entry = json.loads(line)
        text = f"{entry['at'][11:23]} {entry['level']:7} {entry['logger'].removeprefix('twd.')}: {entry['text']}"
    except (ValueError, KeyError, TypeError):
        return printable(line)
    text = printable(text)
    return click.style(text, fg=COLOURS[entry["level"]]) if entry["level"] in COLOURS else text
