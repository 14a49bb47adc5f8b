"""The file of observations that were made, so that a calibration that was ended goes on."""

import os
from hashlib import sha256
from pathlib import Path

import msgspec

from twd.gate.calibration.lines import Line
from twd.gate.calibration.search import Observation


class _Row(msgspec.Struct, frozen=True):
    key: str
    seen: Observation


class KeptObservations:
    """What was observed under these conditions; rows of other conditions and broken rows do not count."""

    def __init__(self, path: Path | None = None, *conditions: object) -> None:
        """Read them; raises ValueError for a file of something else."""
        self._path, self._conditions = path, conditions
        self._rows = {} if path is None else _read(path)

    def find(self, line: Line) -> Observation | None:
        """What a prompt gave; None: it was not asked yet."""
        return self._rows.get(self._key(line))

    def add(self, line: Line, seen: Observation) -> Observation:
        """Write down what a prompt gave; returns it."""
        if self._path is None:
            return seen
        row = msgspec.json.encode(_Row(self._key(line), seen))
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(b"\n" + row)  # the newline stands first, as the last row may be cut
        return seen

    def _key(self, line: Line) -> str:
        return sha256(msgspec.json.encode((self._conditions, line))).hexdigest()[:32]


def _read(path: Path) -> dict[str, Observation]:
    found: dict[str, Observation] = {}
    told = path.read_bytes() if path.exists() else b""
    for row in told.splitlines():
        try:
            kept = msgspec.json.decode(row, type=_Row)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        found[kept.key] = kept.seen
    if told.strip() and not found:
        raise ValueError(f"{path} holds no observations; name a file of its own")
    return found
