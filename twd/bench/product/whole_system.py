"""A whole installation, started with `twd up` as a user does, with its own state folder."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from twd.wire.failures import FailureCode, TwdError

TWD: Final = (sys.executable, "-P", "-m", "twd")
_READY_S: Final = 300.0
_END_S: Final = 60.0


class WholeSystem:
    """One `twd up -d`; `more` are further arguments of that command."""

    def __init__(self, home: Path, settings: dict[str, Any], more: Sequence[str] = ()) -> None:
        self.home, self._more = home, more
        home.mkdir(parents=True, exist_ok=True)
        self.file = home / "bench.yaml"
        self.file.write_text(yaml.safe_dump(settings), "utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TWD_")}
        own = {"TWD_HOME": str(home), "TWD_CONFIG": str(self.file), "TWD_EDGE_PORT": "0", "TWD_AGENT_PORT": "0"}
        self.environment = {**kept, **own, "NO_COLOR": "1"}
        self.told: dict[str, Any] = {}

    def start(self) -> None:
        """Start, and return when everything is ready."""
        command = [*TWD, "-c", str(self.file), "up", "-d", "--json", *self._more]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=_READY_S
        )
        if done.returncode:
            raise TwdError(FailureCode.MODEL_LOAD, f"the system does not start: {done.stdout}{done.stderr}")
        self.told = json.loads(done.stdout)

    @property
    def url(self) -> str:
        """The URL of its API."""
        return str(self.told["addresses"]["api"])

    def pid(self, prefix: str) -> int:
        """Return the pid of the process whose name begins with this."""
        return next(pid for name, pid in self.processes().items() if name.startswith(prefix))

    def processes(self) -> dict[str, int]:
        """Return the pids of the started processes by name."""
        return {name: int(one["pid"]) for name, one in self.told["processes"].items()}

    def stop(self) -> None:
        """Stop all started processes."""
        command = [*TWD, "down"]
        subprocess.run(command, env=self.environment, capture_output=True, check=False, timeout=_END_S)


def give_cores(pid: int, cores: set[int]) -> None:
    """Restrict all threads of a process to these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)
