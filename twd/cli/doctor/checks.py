"""Checks of what was set up: the settings, the state folder, disk and clock."""

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from twd.cli.doctor.finding_ids import FindingId
from twd.cli.doctor.findings import Finding, Severity, bad, good, odd, skipped
from twd.engine.host_memory.limits import gib
from twd.process.home import StateFolder
from twd.settings.model import Settings
from twd.settings.show import Report
from twd.supervisor.in_clear import ways_in_clear

DISK_LOW: Final = 2 << 30
DISK_FULL: Final = 200 << 20


def check_config(report: Report) -> list[Finding]:
    """Whether the settings can be used, and what looks wrong in them."""
    if report.problems:
        return [
            bad(FindingId.SETTINGS_WRONG, "settings", str(problem), "twd config check") for problem in report.problems
        ]
    found = [
        odd(FindingId.SETTINGS_DOUBTFUL, "settings", str(warning), "twd config check") for warning in report.warnings
    ]
    found += [odd(FindingId.SETTINGS_REMARK, "settings", hint) for hint in report.hints]
    loaded = report.loaded
    if loaded is None or found:
        return found
    return [good("settings", f"{loaded.source or 'the defaults'} can be used")]


def check_served(settings: Settings) -> Finding:
    """Whether there is anything to serve."""
    served = settings.served()
    if not served:
        return odd(
            FindingId.NO_MODEL, "models", "no model is configured, so there is nothing to talk to", "twd up --demo"
        )
    return good("models", f"{', '.join(served)}; {settings.default_model} is the default")


def check_door(settings: Settings) -> list[Finding]:
    """Whether keys and texts travel in the clear."""
    return [odd(FindingId.IN_THE_CLEAR, *way) for way in ways_in_clear(settings)]


def check_home(home: StateFolder, uid: int | None) -> list[Finding]:
    """Whether the state folder is there, ours, and nobody else's to read."""
    if not home.path.exists():
        return [skipped("state folder", f"{home.path} is not there yet; `twd up` makes it", "twd up")]
    owned = _owned(home, uid)
    if owned.verdict is Severity.FAIL:  # then the rest may not even be looked at
        return [owned]
    return [owned, *_folders(home), *_private(home), *_record(home)]


def _folders(home: StateFolder) -> Iterator[Finding]:
    missing = [folder for folder in (home.logs, home.run, home.cache, home.models) if not folder.is_dir()]
    if missing:
        words = ", ".join(shlex.quote(str(folder)) for folder in missing)
        yield odd(FindingId.FOLDERS_MISSING, "state folders", f"{words} missing", f"mkdir -m 700 {words}", home.prepare)


def _owned(home: StateFolder, uid: int | None) -> Finding:
    """A command of another user, as under sudo, leaves files of theirs in a folder of ours."""
    inside = [home.run, home.logs, home.cache, *home.run.glob("[!.]*"), *home.logs.glob("*.log")]
    for path in (home.path, *(path for path in inside if path.exists())):
        owner = path.lstat().st_uid
        if uid is not None and owner != uid:
            mend = f"sudo chown -R {uid} {shlex.quote(str(home.path))}"
            return bad(
                FindingId.FOLDER_OF_ANOTHER_USER,
                "state folder",
                f"{path} belongs to user {owner}, and this is user {uid}",
                mend,
            )
    return good("state folder", str(home.path))


def _private(home: StateFolder) -> Iterator[Finding]:
    secrets = [home.path / "broker.token", home.path / "keys.json", home.path / "chat_history", home.settings_file]
    secrets.append(home.path / "own_certificate.pem")
    secrets += [*home.run.glob("*.json"), *(home.path / "broker").glob("*.conf"), *(home.path / "history").glob("*")]
    for path, wanted in [(home.path, 0o700), *((path, 0o600) for path in dict.fromkeys(secrets))]:
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            detail = f"{path} can be read by others (mode {mode:o})"
            yield bad(
                FindingId.READABLE_BY_OTHERS,
                "privacy",
                detail,
                f"chmod {wanted:o} {shlex.quote(str(path))}",
                _chmod(path, wanted),
            )


def _chmod(path: Path, mode: int) -> Callable[[], None]:
    return lambda: path.chmod(mode)


def _record(home: StateFolder) -> Iterator[Finding]:
    instance, problem = home.read_instance()
    if home.held():
        if instance is None:
            yield bad(
                FindingId.RUN_WITHOUT_RECORD,
                "this run",
                problem or "it has no record",
                "twd down  # it tells what to do",
            )
    elif problem or instance is not None:
        detail = problem or f"pid {instance.pid if instance else 0} did not end in good order; its record is left"
        yield odd(FindingId.LAST_RUN_CRASHED, "last run", detail, "twd doctor --fix", lambda: _clear(home))


def _clear(home: StateFolder) -> None:
    descriptor = home.acquire()
    try:
        home.clear_stale()
    finally:
        os.close(descriptor)


def check_disk(path: Path, free: int) -> Finding:
    """Whether logs, history and models have room."""
    detail = f"{gib(free)} free at {path}"
    mend = f"twd logs --clear; du -xh {shlex.quote(str(path))} | sort -h | tail"
    if free < DISK_FULL:
        return bad(FindingId.DISK_LOW, "disk", detail, mend)
    return odd(FindingId.DISK_LOW, "disk", detail, mend) if free < DISK_LOW else good("disk", detail)


def check_clock(wall_ms: int, code_ms: int) -> Finding:
    """Check the clock: the time must not be before this program was written."""
    if wall_ms < code_ms:
        return bad(
            FindingId.CLOCK_WRONG,
            "clock",
            "this machine's clock is older than the program that reads it",
            "sudo timedatectl set-ntp true",
        )
    return good("clock", "is later than the program's own date")
