"""This machine as an installer meets it: its root folder, its user, and the programs that it runs."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

PROGRAM_S: Final = 120.0
CARD_FILES: Final = ("nvidia*", "dri/renderD*", "kfd", "accel/accel*")
CARD_GROUPS: Final = ("video", "render")
MISSING: Final = 127


class ProgramResult(NamedTuple):
    """What a program said."""

    code: int
    text: str


def run_program(argv: Sequence[str], user: str = "") -> ProgramResult:
    """Run a program of the system, as another user if one is named, and return what it said."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROGRAM_S,
            check=False,
            user=user or None,
            group=user or None,
            extra_groups=[] if user else None,
        )
    except FileNotFoundError:
        return ProgramResult(MISSING, f"{argv[0]} is not here")
    except subprocess.TimeoutExpired:
        return ProgramResult(MISSING, f"{argv[0]} does not end within {PROGRAM_S:g} s")
    return ProgramResult(done.returncode, done.stdout.decode(errors="replace").strip())


@dataclass(frozen=True)
class LocalSystem:
    """This machine. Tests give another root and other programs."""

    root: Path = Path("/")
    home: Path = field(default_factory=Path.home)
    uid: int = field(default_factory=lambda: getattr(os, "geteuid", lambda: 0)())
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    platform: str = sys.platform
    run: Callable[..., ProgramResult] = run_program

    def at(self, path: str | Path) -> Path:
        """Return a whole path below the root."""
        return self.root / Path(path).relative_to("/")

    @property
    def is_mac(self) -> bool:
        """Whether launchd runs services here."""
        return self.platform == "darwin"

    @property
    def has_systemd(self) -> bool:
        """Whether systemd runs this machine."""
        return self.at("/run/systemd/system").is_dir()

    @property
    def has_cards(self) -> bool:
        """Whether there are devices that compute."""
        return any(True for pattern in CARD_FILES for _ in self.at("/dev").glob(pattern))

    @property
    def card_groups(self) -> tuple[str, ...]:
        """The groups of this machine that may use graphics cards."""
        try:
            lines = self.at("/etc/group").read_text(errors="replace").splitlines()
        except OSError:
            return ()
        known = {line.partition(":")[0] for line in lines}
        return tuple(name for name in CARD_GROUPS if name in known)

    def must(self, *argv: str) -> str:
        """Run a program that must succeed; raises CommandError with what it said."""
        done = self.run(argv)
        if done.code:
            text = f"`{' '.join(argv)}` failed (exit code {done.code}): {done.text[-500:] or 'it said nothing'}"
            raise CommandError(ExitCode.CANNOT_START, text)
        return done.text
