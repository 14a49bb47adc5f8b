"""Installs, removes and asks jobs of launchd (macOS)."""

import re
from dataclasses import dataclass

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.setup.units.plan import LABELS
from twd.setup.units.system import LocalSystem
from twd.setup.units.unit_state import UnitState


@dataclass(frozen=True)
class LaunchdManager:
    """launchd, for the whole machine or for this user."""

    system: bool
    machine: LocalSystem

    @property
    def domain(self) -> str:
        """What launchctl calls the place of its jobs."""
        return "system" if self.system else f"gui/{self.machine.uid}"

    def check(self) -> None:
        """Raise CommandError where it cannot be used, before anything is changed."""
        if self.system and self.machine.uid != 0:
            text = "a service of the machine is for root to install: say sudo, or --user for a service of your own"
            raise CommandError(ExitCode.USAGE, text)

    def state(self, name: str) -> UnitState:
        """Ask how a job is."""
        done = self.machine.run(("launchctl", "print", f"{self.domain}/{LABELS[name]}"))
        if done.code:
            return UnitState()
        pid = re.search(r"^\s*pid = (\d+)", done.text, re.MULTILINE)
        step = re.search(r"^\s*state = (.+)$", done.text, re.MULTILINE)
        words = step[1].strip() if step else ""
        return UnitState(True, True, pid is not None, words, "", int(pid[1]) if pid else 0)

    def take_up(self, name: str, file: str, changed: bool) -> list[str]:
        """Load the job, which starts it; one that has changed is ended first, with its drain."""
        if self.state(name).there:
            if not changed:
                return []
            self.machine.must("launchctl", "bootout", f"{self.domain}/{LABELS[name]}")
        self.machine.must("launchctl", "bootstrap", self.domain, file)
        return [f"{LABELS[name]} runs, and starts by itself from now on"]

    def let_go(self, name: str) -> list[str]:
        """End a job, with its drain."""
        if not self.state(name).there:
            return []
        self.machine.must("launchctl", "bootout", f"{self.domain}/{LABELS[name]}")
        return [f"{LABELS[name]} ended"]
