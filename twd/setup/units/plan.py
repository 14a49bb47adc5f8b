"""What a service of the system shall run, and where its files lie. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

FULL: Final = "twd"
AGENT: Final = "twd-agent"
SERVICE_USER: Final = "twd"
SYSTEM_STATE: Final = Path("/var/lib/twd")
SYSTEM_CONFIG: Final = Path("/etc/twd")
SYSTEM_UNITS: Final = Path("/etc/systemd/system")
USER_UNITS: Final = Path(".config/systemd/user")
DAEMONS: Final = Path("/Library/LaunchDaemons")
AGENTS: Final = Path("Library/LaunchAgents")
LABELS: Final = {FULL: "local.twd", AGENT: "local.twd-agent"}


@dataclass(frozen=True)
class UnitPlan:
    """One service of the system. `name`: twd or twd-agent."""

    name: str
    system: bool
    """Whether it belongs to the whole machine, and not to one user."""
    program: str
    arguments: tuple[str, ...]
    reload: tuple[str, ...]
    """Arguments of the program by which a running service reads its settings again."""
    home: str
    """The state folder."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Settings that are no secrets."""
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Secrets: the name of each setting, and the file that holds it."""
    cards: bool = False
    """Whether it may use graphics cards."""
    groups: tuple[str, ...] = ()
    """Groups of the machine that may use them."""
    reads_homes: bool = False
    """Whether the program or a model lies in somebody's home."""
    writes: tuple[str, ...] = ()
    """Folders besides the state folder that it writes into, such as those of models."""

    def check(self) -> None:
        """Raise CommandError for a path that no unit can hold."""
        for text in (self.program, *self.arguments, self.home, *self.writes, *self.credentials.values()):
            if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
                raise CommandError(ExitCode.USAGE, f"{text!r} holds a line break or another control character")
        for text in (self.program, self.home, *self.writes, *self.credentials.values()):
            if set(text) & set("\"'\\") or text != text.strip():
                raise CommandError(
                    ExitCode.USAGE, f"{text!r}: no unit can name a file or folder with quotes or a backslash; move it"
                )


@dataclass(frozen=True)
class UnitPlaces:
    """Where the files of one service lie."""

    unit: Path
    credentials: Path
    config: Path
    """The folder of its settings."""


def systemd_places(name: str, system: bool, home: Path, root: Path = Path("/")) -> UnitPlaces:
    """Return where systemd looks; `home` is that of the user."""
    config = root / SYSTEM_CONFIG.relative_to("/") if system else home / ".config" / "twd"
    units = root / SYSTEM_UNITS.relative_to("/") if system else home / USER_UNITS
    return UnitPlaces(units / f"{name}.service", config / "credentials", config)


def launchd_places(name: str, system: bool, home: Path, root: Path = Path("/")) -> UnitPlaces:
    """Return where launchd looks."""
    config = root / SYSTEM_CONFIG.relative_to("/") if system else home / ".config" / "twd"
    jobs = root / DAEMONS.relative_to("/") if system else home / AGENTS
    return UnitPlaces(jobs / f"{LABELS[name]}.plist", config / "credentials", config)
