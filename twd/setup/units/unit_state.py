"""What the service manager says of a service, in words. No I/O."""

from dataclasses import dataclass
from typing import Any

from twd.kit.exit_codes import ExitCode


@dataclass(frozen=True)
class UnitState:
    """One service as its service manager sees it."""

    there: bool = False
    enabled: bool = False
    active: bool = False
    """It runs, or starts, or ends."""
    step: str = ""
    words: str = ""
    """What the service says of itself."""
    pid: int = 0
    restarts: int = 0
    result: str = ""
    since: str = ""

    @property
    def works(self) -> bool:
        """Whether it answers questions."""
        return self.active and self.step == "running"

    @property
    def exit_code(self) -> ExitCode:
        """What `twd service status` returns."""
        if self.works:
            return ExitCode.OK
        return ExitCode.UNHEALTHY if self.active or self.step in ("failed", "auto-restart") else ExitCode.NOTHING_RUNS

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def line(self) -> str:
        """One line for people."""
        if not self.there:
            return "not installed; `twd service install` does that"
        parts = [self.step or "unknown", self.words, f"pid {self.pid}" if self.pid else ""]
        parts += [f"since {self.since}" if self.since and self.active else ""]
        parts += [f"restarted {self.restarts} times" if self.restarts else ""]
        parts += [f"last end: {self.result}" if self.result not in ("", "success") else ""]
        parts += ["" if self.enabled else "does not start by itself"]
        return "; ".join(filter(None, parts))


def state_of(shown: str) -> UnitState:
    """Read what `systemctl show` prints."""
    facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    active = facts.get("ActiveState", "")
    return UnitState(
        there=facts.get("LoadState", "not-found") not in ("not-found", ""),
        enabled=facts.get("UnitFileState", "").startswith("enabled"),
        active=active in ("active", "activating", "reloading", "deactivating"),
        step=facts.get("SubState", ""),
        words=facts.get("StatusText", ""),
        pid=_number(facts.get("MainPID", "")),
        restarts=_number(facts.get("NRestarts", "")),
        result=facts.get("Result", ""),
        since=facts.get("ActiveEnterTimestamp", ""),
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
