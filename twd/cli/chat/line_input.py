"""The line that people type: editing and history by readline, kept in the home for its owner only."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twd.process.home import move_aside

LINES_MAX: Final = 2000


class LineInput:
    """Reads lines; where Python has no readline, without editing and history."""

    def __init__(self, file: Path, tell: Callable[[str], None]) -> None:
        self._file = file
        self._tell = tell
        self._readline = _readline()
        if self._readline is not None:
            self._load(self._readline)

    def line(self, prompt: str) -> str:
        """One line; raises EOFError at Ctrl-D and KeyboardInterrupt at Ctrl-C."""
        return input(prompt)

    def begun(self) -> bool:
        """Whether Ctrl-C took a line that was not empty: readline keeps it until the next one begins."""
        return self._readline is not None and bool(self._readline.get_line_buffer())

    def keep(self) -> None:
        """Write down what was typed last, at once: another chat may run beside this one."""
        readline = self._readline
        if readline is not None and readline.get_current_history_length():
            append = getattr(readline, "append_history_file", None)  # libedit has none
            self._attempt(
                lambda: append(1, str(self._file)) if append else readline.write_history_file(str(self._file))
            )

    def _load(self, readline: Any) -> None:
        readline.set_auto_history(True)
        readline.set_history_length(LINES_MAX)
        self._attempt(self._make)
        try:
            self._file.read_text("utf-8")
            readline.read_history_file(str(self._file))
            if readline.get_current_history_length() >= LINES_MAX:
                readline.write_history_file(str(self._file))
        except FileNotFoundError:
            return  # it could not be made, which was told
        except (OSError, UnicodeDecodeError) as error:
            self._tell(f"the history of earlier chats cannot be read ({error}); moved to {move_aside(self._file).name}")
            self._attempt(self._make)

    def _make(self) -> None:
        os.close(os.open(self._file, os.O_CREAT | os.O_WRONLY, 0o600))
        self._file.chmod(0o600)

    def _attempt(self, action: Callable[[], object]) -> None:
        """Writing may fail, as on a full disk: the chat goes on without, and says so once."""
        try:
            action()
        except OSError as error:
            self._readline = None
            self._tell(f"what you type is not kept: {error}")


def _readline() -> Any:
    try:
        import readline
    except ImportError:
        return None
    return readline
