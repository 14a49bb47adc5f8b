"""Looks for a secret in the command lines and environments of all processes, again and again while something runs."""

import threading
from contextlib import suppress
from pathlib import Path

LOOK_S = 0.1


class SecretWatch:
    """While it is entered, every process is looked at; `found` names those in which the text stood."""

    def __init__(self, text: str) -> None:
        self.found: set[str] = set()
        self.looks = 0
        self._text = text.encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def _look_on(self) -> None:
        while not self._ended.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Look at every process once."""
        self.looks += 1
        for process in Path("/proc").glob("[0-9]*"):
            for part in ("cmdline", "environ"):
                with suppress(OSError):
                    if self._text in (process / part).read_bytes():
                        self.found.add(f"{part} of {(process / 'comm').read_text().strip()}")

    def __enter__(self) -> "SecretWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)
