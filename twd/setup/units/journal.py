"""What the system's journal holds of a service: it has what no log file has, such as why a start failed."""

import datetime
import json
from collections.abc import Iterator
from typing import Any, Final

from twd.setup.units.plan import AGENT, FULL, systemd_places
from twd.setup.units.system import LocalSystem

ERROR_UP_TO: Final = 3
WARNING: Final = 4
NEWS_MAX: Final = "10000"


def journal_command(system: bool, unit: str) -> tuple[str, ...]:
    """Return the command that reads a unit's part of the journal."""
    scope = ("--unit",) if system else ("--user", "--user-unit")
    return ("journalctl", *scope, unit, "--no-pager", "--quiet")


class Journal:
    """The journal of one unit, in lines as our own logs have them."""

    def __init__(self, machine: LocalSystem, system: bool, unit: str) -> None:
        self._machine = machine
        self._command = journal_command(system, unit)
        self._cursor = ""

    def last(self, count: int) -> list[str]:
        """Return its last lines; `news` goes on from there."""
        entries = self._read("--lines", str(max(count, 1)))
        return entries[-count:] if count else []

    def news(self) -> list[str]:
        """Return what came since."""
        where = (f"--after-cursor={self._cursor}",) if self._cursor else ()
        return self._read(*where, "--lines", NEWS_MAX)

    def _read(self, *options: str) -> list[str]:
        done = self._machine.run((*self._command, "--output=json", *options))
        if done.code:
            return []
        entries = list(_entries(done.text))
        if entries:
            self._cursor = str(entries[-1].get("__CURSOR", self._cursor))
        return [line_of(entry) for entry in entries]


def _entries(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def line_of(entry: dict[str, Any]) -> str:
    """Return one entry as a line of our logs."""
    at = datetime.datetime.fromtimestamp(_number(entry.get("__REALTIME_TIMESTAMP")) / 1e6, datetime.UTC)
    rank = _number(entry.get("PRIORITY", 6))
    level = "error" if rank <= ERROR_UP_TO else "warning" if rank == WARNING else "info"
    who = str(entry.get("SYSLOG_IDENTIFIER") or "journal")
    fields = {"at": at.isoformat(timespec="milliseconds"), "level": level, "logger": who}
    return json.dumps({**fields, "text": _text(entry.get("MESSAGE"))}, ensure_ascii=False)


def _text(message: object) -> str:
    """A message that is no text is written as a list of its bytes."""
    if isinstance(message, list):
        return bytes(byte for byte in message if isinstance(byte, int) and 0 <= byte < 256).decode(errors="replace")
    return str(message or "")


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0


def journal_of(machine: LocalSystem, home: str) -> Journal | None:
    """Return the journal of the service whose state folder this is; None if no unit of ours names it."""
    found = unit_of(machine, home)
    return Journal(machine, *found) if found else None


def unit_of(machine: LocalSystem, home: str) -> tuple[bool, str] | None:
    """Return the unit whose state folder this is, and whether it is one of the machine."""
    wanted = f'Environment="TWD_HOME={home.replace("%", "%%")}"'
    for system in (True, False):
        for name in (FULL, AGENT):
            unit = systemd_places(name, system, machine.home, machine.root).unit
            try:
                if wanted in unit.read_text(errors="replace").splitlines():
                    return system, unit.name
            except OSError:
                continue
    return None
