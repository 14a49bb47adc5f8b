"""A machine to install services on: a folder as its root, and programs that note how they are called."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twd.setup.units.system import LocalSystem, ProgramResult


@dataclass
class PlayedSystemd:
    """Programs of a machine with systemd; remembers which units are enabled and active."""

    calls: list[str] = field(default_factory=list)
    enabled: set[str] = field(default_factory=set)
    active: set[str] = field(default_factory=set)
    fails: dict[str, str] = field(default_factory=dict)
    """Programs by their first words, with what they say when they fail."""
    journal: str = ""

    def run(self, argv: Sequence[str], user: str = "") -> ProgramResult:
        line = " ".join(argv)
        for begin, words in self.fails.items():
            if line.startswith(begin):
                return ProgramResult(1, words)
        if argv[0] == "journalctl":
            return ProgramResult(0, self.journal)
        order = [word for word in argv if word != "--user"]
        if order[:2] == ["systemctl", "show"]:
            return ProgramResult(0, self._show(order[2]))
        self.calls.append(line)
        if order[0] == "systemctl" and len(order) > 2:
            self._change(order[1], order[2])
        return ProgramResult(0, "")

    def _show(self, unit: str) -> str:
        active = unit in self.active
        known = active or unit in self.enabled
        lines = [f"LoadState={'loaded' if known else 'not-found'}", f"ActiveState={'active' if active else 'inactive'}"]
        lines += [f"SubState={'running' if active else 'dead'}", f"UnitFileState={'enabled' if known else ''}"]
        return "\n".join([*lines, "StatusText=serves big" if active else "", "MainPID=4711", "NRestarts=0"])

    def _change(self, verb: str, unit: str) -> None:
        if verb == "enable":
            self.enabled.add(unit)
        elif verb == "disable":
            self.enabled.discard(unit)
        elif verb == "start":
            self.active.add(unit)
        elif verb == "stop":
            self.active.discard(unit)


def machine_at(root: Path, programs: PlayedSystemd, uid: int = 0, platform: str = "linux") -> LocalSystem:
    """A machine whose files are below this folder."""
    (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nvideo:x:44:\nrender:x:105:\n")
    home = root / "home/me"
    home.mkdir(parents=True, exist_ok=True)
    return LocalSystem(root=root, home=home, uid=uid, environment={}, platform=platform, run=programs.run)
