"""Installs, removes and asks units of systemd."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.setup.units.journal import journal_command
from twd.setup.units.kept_file import changed_by_hand
from twd.setup.units.plan import SERVICE_USER, SYSTEM_STATE, UnitPlaces
from twd.setup.units.system import LocalSystem
from twd.setup.units.unit_state import UnitState, state_of

NO_LOGIN: Final = "/usr/sbin/nologin"
JOURNAL_LINES: Final = "15"
ASKED: Final = "LoadState,ActiveState,SubState,StatusText,MainPID,NRestarts,Result,UnitFileState,ActiveEnterTimestamp"


@dataclass(frozen=True)
class SystemdManager:
    """The service manager of this machine, or that of this user."""

    system: bool
    machine: LocalSystem

    @property
    def systemctl(self) -> tuple[str, ...]:
        """How it is told anything."""
        return ("systemctl",) if self.system else ("systemctl", "--user")

    def check(self) -> None:
        """Raise CommandError where it cannot be used, before anything is changed."""
        if not self.machine.has_systemd:
            text = "systemd does not run this machine, so it can start no service; `twd up -d` starts twd without one"
            raise CommandError(ExitCode.CANNOT_START, text)
        if self.system and self.machine.uid != 0:
            text = "a service of the machine is for root to install: say sudo, or --user for a service of your own"
            raise CommandError(ExitCode.USAGE, text)
        done = self.machine.run((*self.systemctl, "show-environment"))
        if done.code:
            words = "log in in full (not by su), or set XDG_RUNTIME_DIR=/run/user/$(id -u)"
            text = (
                f"the service manager cannot be asked: {done.text[-300:]}; {words if not self.system else 'try again'}"
            )
            raise CommandError(ExitCode.CANNOT_START, text)

    def state(self, unit: str) -> UnitState:
        """Ask how a unit is."""
        done = self.machine.run((*self.systemctl, "show", unit, f"--property={ASKED}"))
        return state_of(done.text if not done.code else "")

    def make_user(self) -> list[str]:
        """Make the user under which the service of the machine runs; return what was done."""
        passwd = self.machine.at("/etc/passwd").read_text(errors="replace")
        if not self.system or any(line.startswith(f"{SERVICE_USER}:") for line in passwd.splitlines()):
            return []
        options = ("--system", "--user-group", "--no-create-home", "--home-dir", str(SYSTEM_STATE), "--shell", NO_LOGIN)
        self.machine.must("useradd", *options, SERVICE_USER)
        return [f"user {SERVICE_USER} made"]

    def take_up(self, unit: str, changed: bool) -> list[str]:
        """Let systemd read its units, and start this one at every boot and now."""
        if changed:
            self.machine.must(*self.systemctl, "daemon-reload")
        before = self.state(unit)
        done = []
        if not before.enabled:
            self.machine.must(*self.systemctl, "enable", unit)
            done.append(f"{unit} starts at every {'boot' if self.system else 'login'}")
        if before.active:
            if changed:
                done.append(f"{unit} runs as before; `{' '.join(self.systemctl)} restart {unit}` takes up what is new")
            return done
        self._start(unit)
        return [*done, f"{unit} runs: {self.state(unit).words or 'ready'}"]

    def _start(self, unit: str) -> None:
        self.machine.run((*self.systemctl, "reset-failed", unit))
        started = self.machine.run((*self.systemctl, "start", unit))
        if started.code:
            words = "\n".join(f"  {line}" for line in self.journal(unit, JOURNAL_LINES))
            text = f"{unit} is installed, but it does not start: {started.text[-300:]}\n{words}"
            raise CommandError(ExitCode.CANNOT_START, text.rstrip())

    def stay_after_logout(self) -> list[str]:
        """Let this user's services run without a login, too."""
        if self.system:
            return []
        done = self.machine.run(("loginctl", "enable-linger"))
        return [] if not done.code else [f"it ends when you log out, as lingering is refused: {done.text[-200:]}"]

    def journal(self, unit: str, lines: str) -> Sequence[str]:
        """Return the journal's last lines of a unit."""
        command = (*journal_command(self.system, unit), "--lines", lines, "--output=cat")
        done = self.machine.run(command)
        return done.text.splitlines() if not done.code else []

    def let_go(self, unit: str) -> list[str]:
        """End a unit, with its drain, and start it no more."""
        state = self.state(unit)
        done = []
        if state.active:
            self.machine.must(*self.systemctl, "stop", unit)
            done.append(f"{unit} ended")
        if state.enabled:
            self.machine.must(*self.systemctl, "disable", unit)
        return done

    def forget(self) -> None:
        """Let systemd read its units after one was removed."""
        self.machine.must(*self.systemctl, "daemon-reload")


def write_unit(places: UnitPlaces, text: str) -> bool:
    """Write a unit, unless it is there already. Raises CommandError for one that was changed by hand."""
    file = places.unit
    known = read(file)
    if known == text:
        return False
    if known is not None and changed_by_hand(known):
        raise CommandError(ExitCode.DIFFERENT, f"{file} was changed by hand, so it is left as it is; {_how(file)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(text)
    draft.chmod(0o644)
    draft.replace(file)
    return True


def _how(file: Path) -> str:
    return f"move it away to have a new one, and keep changes of your own in {file}.d/own.conf"


def read(file: Path) -> str | None:
    """Return a file's text; None if it is not there."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def remove_unit(file: Path) -> list[str]:
    """Remove a unit; one that was changed by hand is kept beside it under another name."""
    text = read(file)
    if text is None:
        return []
    if changed_by_hand(text):
        aside = file.with_name(f"{file.name}.kept")
        file.replace(aside)
        return [f"{file} was changed by hand: kept as {aside}"]
    file.unlink()
    return [f"{file} removed"]
