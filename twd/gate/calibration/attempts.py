"""Remembers how often a member was calibrated. Who tries again and again until a rule is proved proves nothing.

So each further calibration under the same conditions must be surer: the chance of a wrong rule is halved each time.
Then the chance that any of them proves a wrong one stays below twice that of the first, however many there are.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from twd.gate.calibration.profile import FOLDER, Conditions
from twd.gate.calibration.search import Observation
from twd.private_file import write_private

KEPT_MAX: Final = 20
"""So many attempts are told apart; further ones count as this many."""
_FILE: Final = "attempts.json"


class Attempts:
    """The calibrations of one member under some conditions, each known by what was observed."""

    def __init__(self, home: Path, conditions: Conditions, *more: object) -> None:
        """`more`: what else the claim depends on, as the error rate."""
        self._path = home / FOLDER / _FILE
        self._key = _hash((conditions, more))

    def number(self, seen: Sequence[Observation]) -> int:
        """Which attempt these observations are, from 1 on. The same ones again are the same attempt."""
        made, this = self._read().get(self._key, []), _told(seen)
        return made.index(this) + 1 if this in made else len(made) + 1

    def add(self, seen: Sequence[Observation]) -> None:
        """Remember an attempt."""
        found, this = self._read(), _told(seen)
        made = found.setdefault(self._key, [])
        if this not in made and len(made) < KEPT_MAX:
            made.append(this)
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(self._path, msgspec.json.encode(found))

    def _read(self) -> dict[str, list[str]]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, list[str]])
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return {}


def confidence_of(attempt: int, asked: float) -> float:
    """How sure an attempt must be so that the first may be as sure as `asked`."""
    return 1.0 - (1.0 - asked) / 2.0 ** (attempt - 1)


def _told(seen: Sequence[Observation]) -> str:
    """What was observed; how long it took does not matter."""
    return _hash([(one.conversation, one.gaps, one.wrong) for one in seen])


def _hash(value: object) -> str:
    return sha256(msgspec.json.encode(value)).hexdigest()[:16]
