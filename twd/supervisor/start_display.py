"""What `twd up` shows: a live table in a terminal, plain lines in a pipe, JSON for programs."""

import json
import os
import sys
from typing import Any, Protocol

import click
import msgspec

from twd.kit.terminal import let_go_of_stdout
from twd.kit.wording import gist
from twd.process.process_table import ProcessRow, StartPhase
from twd.supervisor.own_command import own_command

STYLES = {
    StartPhase.READY: "green",
    StartPhase.DEGRADED: "yellow",
    StartPhase.SILENT: "yellow",
    StartPhase.MISSING: "yellow",
    StartPhase.FAILED: "bold red",
    StartPhase.RESTARTING: "red",
}


QUIET = (StartPhase.DRAINING, StartPhase.ENDED)
"""Phases that all processes reach together: they get no line of their own."""


class StartSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an installation at one moment."""

    home: str
    pid: int
    rows: list[ProcessRow]
    addresses: dict[str, str] = {}
    ready_ms: int = 0
    """Milliseconds until everything worked; 0 while it does not."""
    note: str = ""
    exit_code: int = -1
    """Set when the installation has ended."""

    def summary(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "ready": bool(self.ready_ms),
            "ready_s": self.ready_ms / 1000,
            "home": self.home,
            "pid": self.pid,
            "addresses": self.addresses,
            "processes": {row.name: {"pid": row.pid, "stage": row.stage, "note": row.note} for row in self.rows},
            "models": sorted({row.model for row in self.rows if row.name.startswith("speculator")}),
        }


class StartView(Protocol):
    """Something that shows snapshots of an installation."""

    talks: bool
    """Whether a person goes on reading after everything is ready."""

    def show(self, picture: StartSnapshot) -> None:
        """Show a new snapshot."""

    def close(self) -> None:
        """No more snapshots come."""


def choose_view(as_json: bool, report: bool) -> StartView:
    """Return the view that fits the output: a terminal, a pipe or a program."""
    if report:
        return ReportView()
    if as_json:
        return JsonView()
    return LiveView() if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else PlainView()


class PlainView:
    """Prints a line for each change."""

    talks = True

    def __init__(self) -> None:
        self._told: dict[str, tuple[StartPhase, int]] = {}
        self._notes: dict[str, set[str]] = {}
        """Notes already printed for each process while it loads, without their figures."""
        self._note = ""
        self._ready = False

    def show(self, picture: StartSnapshot) -> None:
        """Print what is new."""
        if picture.note and picture.note != self._note:
            click.echo(picture.note)
        self._note = picture.note
        for row in picture.rows:
            if self._is_new(row) and row.stage not in QUIET:
                click.echo(f"{row.name}: {row.stage}" + (f" ({row.note})" if row.note else ""))
        if picture.ready_ms and not self._ready:
            self._ready = True
            click.echo("\n".join(closing_lines(picture)))

    def _is_new(self, row: ProcessRow) -> bool:
        now, note = (row.stage, row.restarts), gist(row.note) if row.stage is StartPhase.LOADING else ""
        changed = self._told.get(row.name) != now
        if changed:
            self._told[row.name], self._notes[row.name] = now, set()
        known = self._notes[row.name]
        new = changed or (bool(note) and note not in known)
        known.add(note)
        return new

    def close(self) -> None:
        """Nothing to clean up."""


class JsonView:
    """Prints one JSON object when everything is ready."""

    talks = False

    def __init__(self) -> None:
        self._done = False

    def show(self, picture: StartSnapshot) -> None:
        """Print once."""
        if picture.ready_ms and not self._done:
            self._done = True
            click.echo(json.dumps(picture.summary()))

    def close(self) -> None:
        """Nothing to clean up."""


class SilentView:
    """Prints nothing: something else reports."""

    talks = False

    def show(self, picture: StartSnapshot) -> None:
        """Print nothing."""

    def close(self) -> None:
        """Nothing to clean up."""


class ReportView:
    """Prints every snapshot as a line of JSON until all is ready, for the process that waits to detach."""

    talks = False

    def __init__(self) -> None:
        self._open = True

    def show(self, picture: StartSnapshot) -> None:
        """Print a snapshot for the waiting process; if that has ended, print no more."""
        if not self._open:
            return
        try:
            sys.stdout.buffer.write(msgspec.json.encode(picture) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self._let_go()
        if picture.ready_ms:
            self._let_go()

    def _let_go(self) -> None:
        self._open = False
        let_go_of_stdout()

    def close(self) -> None:
        """Do nothing: the reason why it did not become ready is printed at the very end."""


class LiveView:
    """Shows a table that is drawn again at each change."""

    talks = True

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
        self._live.start()
        self._ready = False

    def show(self, picture: StartSnapshot) -> None:
        """Draw the table again; print the addresses above it once, when all is ready."""
        if picture.ready_ms and not self._ready:
            self._ready = True
            text = "\n".join((*closing_lines(picture), ""))
            # not in the table, which breaks lines: lines that the terminal breaks can be copied whole
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)
        self._live.update(draw(picture), refresh=True)

    def close(self) -> None:
        """Stop drawing; the last table stays on the screen."""
        self._live.stop()


def draw(picture: StartSnapshot) -> Any:
    """Return the table of a snapshot for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("service", "state", "pid", "restarts"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True)
    table.add_column("")  # not `no_wrap`, so that it is the first to become narrower
    for row in picture.rows:
        state = Text(row.stage, style=STYLES.get(row.stage, "dim"))
        note = Text(row.note, style="dim", overflow="ellipsis", no_wrap=True)
        table.add_row(row.name, state, str(row.pid or ""), str(row.restarts or ""), note)
    return Group(table, Text(picture.note)) if picture.note else table


def closing_lines(picture: StartSnapshot) -> list[str]:
    """Return lines with the addresses, and commands to try."""
    lines = ["", f"ready in {picture.ready_ms / 1000:.1f} s"]
    lines += [f"  {name:8} {address}" for name, address in picture.addresses.items()]
    missing = [row for row in picture.rows if row.stage is StartPhase.MISSING]
    lines += [f"  without {row.name}, which is taken in when it comes: {row.note}" for row in missing]
    api = picture.addresses.get("api")
    models = picture.summary()["models"]
    if api and models:
        body = json.dumps({"model": models[0], "messages": [{"role": "user", "content": "Why is the sky blue?"}]})
        header = "-H 'Content-Type: application/json'"
        lines += ["try:", f"  curl -s {api}/v1/chat/completions {header} -d '{body}'"]
        lines += [f"  {api}/ in a browser", f"  {own_command()} chat      also: status, watch, logs -f, bench, down"]
    return lines
