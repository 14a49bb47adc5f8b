"""The files that tell of an installation: the settings for its processes, and the record for other commands."""

import os
from collections.abc import Callable

import msgspec

from twd.private_file import write_private
from twd.process.home import RESOLVED_VARIABLE, RunningInstance, StateFolder
from twd.settings.model import Settings
from twd.wire.failures import FailureCode, TwdError


class StateFiles:
    """Writes them. If the disk is full, the old ones stay, the problem is reported, and everything goes on."""

    def __init__(self, home: StateFolder, ails: Callable[[str, bool], None]) -> None:
        """`ails` is called at each attempt with the problem, empty if there is none, and whether it is another one."""
        self.problem = ""
        """Why the state folder cannot be written; empty when it can."""
        self._home = home
        self._ails = ails
        self._kept = False

    def keep(self, settings: Settings) -> None:
        """Write other settings; raises TwdError where that fails. `write` tries again then."""
        self._kept = False
        try:
            self._write_settings(settings)
        except OSError as error:
            raise TwdError(FailureCode.MODEL_LOAD, self._in_words(error)) from error

    def write(self, settings: Settings, record: RunningInstance) -> None:
        """Write the record, and the settings if they are not written yet."""
        try:
            self._write_settings(settings)
            self._home.write_instance(record)
        except OSError as error:
            self._tell(self._in_words(error))
        else:
            self._tell("")

    def environment(self) -> dict[str, str]:
        """Return the environment of processes that read these settings; no TWD_ variable may override them."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TWD_") or name == "TWD_DEBUG"}
        return {**kept, RESOLVED_VARIABLE: str(self._home.settings_file), "PYTHONFAULTHANDLER": "1"}

    def _write_settings(self, settings: Settings) -> None:
        if not self._kept:
            write_private(self._home.settings_file, msgspec.json.encode(settings))
            self._kept = True

    def _tell(self, problem: str) -> None:
        is_new = bool(problem) and problem != self.problem
        self.problem = problem
        self._ails(problem, is_new)

    def _in_words(self, error: OSError) -> str:
        return f"nothing can be written in {self._home.path}: {error.strerror}; make room there"
