"""Tries a new version beside the one in use: its doctor, and a start of its own with the same models."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from twd.process.home import RunningInstance, StateFolder
from twd.settings.model import Settings
from twd.setup.versions.folder import VersionProblem
from twd.setup.versions.houses import settings_of, unanswered

DOCTOR_S: Final = 120.0
END_S: Final = 60.0
ROOM: Final = 1.25
"""A model takes more memory than its file: its cache and its buffers."""
SPARE_BYTES: Final = 512 << 20
OWN_PLACES: Final = {
    "TWD_EDGE_HOST": "127.0.0.1",
    "TWD_EDGE_PORT": "0",
    "TWD_BUS_HOST": "127.0.0.1",
    "TWD_AGENT_HOST": "127.0.0.1",
    "TWD_AGENT_PORT": "0",
}


def failures(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what fails in a doctor's document."""
    return {
        result["name"]: result["detail"]
        for section in document.get("sections", [])
        for result in section.get("results", [])
        if result.get("status") == "fail"
    }


def new_failures(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what fails with the new version alone."""
    before = failures(old)
    return [f"{name}: {detail}" for name, detail in failures(new).items() if name not in before]


class VersionTrial:
    """Tries a program with the settings of this installation."""

    def __init__(self, program: Path, old: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
        """`options`: those of `twd` itself, such as `-c FILE`."""
        self._program = program
        self._old = old
        self._options = options
        self._environment = {**os.environ, **environment}

    def doctor(self) -> None:
        """Raise VersionProblem for what the doctor of the new version alone finds wrong."""
        worse = new_failures(self._document(self._old), self._document(self._program))
        if worse:
            raise VersionProblem(f"its doctor finds what the one in use does not: {'; '.join(worse)[:500]}")

    def _document(self, program: Path) -> dict[str, Any]:
        done = self._run(program, DOCTOR_S, "doctor", "--json")
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            words = (done.stderr or done.stdout).strip().splitlines() or [f"it ended with {done.returncode}"]
            raise VersionProblem(f"{program} doctor does not work: {words[-1][:300]}") from None
        return found

    def load(self, deadline_s: float) -> None:
        """Start it in a folder of its own, ask it a question, and end it; raises VersionProblem where that fails."""
        with tempfile.TemporaryDirectory(prefix="twd-trial-") as folder:
            own = {**OWN_PLACES, "TWD_HOME": folder}
            try:
                up = ("up", "-d", "--json", f"--timeout={deadline_s:g}", "edge", "speculator")
                done = self._run(self._program, deadline_s + END_S, *up, **own)
                if done.returncode:
                    words = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
                    raise VersionProblem(f"it does not load the models: {words[-1][:300]}")
                trouble = self._trouble(StateFolder(Path(folder)))
                if trouble:
                    raise VersionProblem(f"it loads the models, but {trouble}")
            finally:
                self._run(self._program, END_S, "down", "--timeout", "20", **own)

    @staticmethod
    def _trouble(home: StateFolder) -> str:
        instance: RunningInstance | None = home.running()
        return unanswered(instance, settings_of(home)) if instance is not None else "it has ended"

    def _run(
        self, program: Path, deadline_s: float, *arguments: str, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                [str(program), *self._options, *arguments],
                env={**self._environment, **more},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=deadline_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise VersionProblem(f"`twd {' '.join(arguments)}` does not work: {error}") from None


def no_room(settings: Settings, model_bytes: int, free: int, joined: bool = False) -> str:
    """Return why the new version cannot load its models beside the old one; empty if it can.

    `joined`: the broker is elsewhere because this machine joined; a trial has a broker of its own.
    """
    if not settings.models:
        return "no model is served here"
    if (settings.bus.url and not joined) or settings.pooled:
        return "its models are spread over machines"
    if model_bytes * ROOM + SPARE_BYTES > free:
        return "the memory holds the models once"
    return ""
