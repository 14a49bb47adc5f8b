"""A takeover in a process of its own, which goes on when whoever asked for it has gone."""

import subprocess
import sys
import time
from typing import IO, Final

from twd.process.home import StateFolder

LOOK_S: Final = 0.1
LOG: Final = "upgrade.log"


def run_apart(home: StateFolder, *arguments: str) -> int:
    """Run `twd ARGUMENTS` in a session of its own, and show what it says until it ends; returns its exit code."""
    home.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = home.logs / LOG
    with log.open("ab") as out, log.open("rb") as said:
        said.seek(0, 2)
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "twd", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        while child.poll() is None:
            _show(said)
            time.sleep(LOOK_S)
        _show(said)
    return child.returncode


def _show(said: IO[bytes]) -> None:
    sys.stderr.write(said.read().decode("utf-8", "replace"))
    sys.stderr.flush()
