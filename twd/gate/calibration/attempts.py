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
from twd.kit.json_cache import file_name, recall, remember

KEPT_MAX: Final = 20
"""So many attempts are told apart; further ones count as the one behind these."""


class _Made(msgspec.Struct, frozen=True):
    attempts: list[str]


class Attempt:
    """One calibration of a member, known by what was observed. The same answers again are the same attempt."""

    def __init__(self, home: Path, conditions: Conditions, seen: Sequence[Observation], *more: object) -> None:
        """`more`: what else the claim depends on, as the error rate."""
        self._path = home / FOLDER / file_name("attempts", (conditions, more))
        kept = recall(self._path, _Made)
        self._made = [] if kept is None else kept.attempts
        self._this = _told(seen)
        self.number = 1 + (self._made.index(self._this) if self._this in self._made else len(self._made))
        """From 1 on."""

    def confidence(self, asked: float) -> float:
        """How sure it must be so that the first may be as sure as `asked`."""
        return 1.0 - (1.0 - asked) / 2.0 ** (self.number - 1)

    def keep(self) -> None:
        """Count it from now on."""
        if self._this not in self._made and len(self._made) < KEPT_MAX:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            remember(self._path, _Made([*self._made, self._this]))


def _told(seen: Sequence[Observation]) -> str:
    """What was observed; how long it took does not matter."""
    told = [(one.conversation, one.gaps, one.wrong) for one in seen]
    return sha256(msgspec.json.encode(told)).hexdigest()[:16]
