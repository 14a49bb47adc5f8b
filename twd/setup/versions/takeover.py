"""One version takes over from another, and the old one comes back by itself when the new one does not work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from twd.setup.versions.folder import VersionProblem, VersionsFolder

LOOK_S: Final = 1.0
READ_PER_S: Final = 100_000_000
"""Bytes of a model that even a slow disk reads in a second."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class TakeoverPolicy:
    """How long a new version has until it works, and how long it must go on working."""

    ready_s: float = 40.0
    settled_s: float = 25.0

    def with_models(self, model_bytes: int) -> "TakeoverPolicy":
        """Return this with the time that models take to load."""
        return TakeoverPolicy(self.ready_s + model_bytes / READ_PER_S, self.settled_s)


class UpgradeHouse(Protocol):
    """What runs here, as far as a change of versions touches it."""

    def runs(self) -> bool:
        """Whether anything runs."""
        ...

    def stop(self) -> None:
        """End it: jobs are finished first. Nothing happens where nothing runs."""

    def start(self, deadline_s: float) -> None:
        """Start the version in use as it was started before; raises VersionProblem when it is not ready in time."""

    def trouble(self) -> str:
        """Return why it does not work; empty if it does."""
        ...

    def release(self) -> None:
        """The change is over, whatever came of it."""


class UpgradeClock(Protocol):
    """Time, as a takeover sees it."""

    def now(self) -> float:
        """Seconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Takeover:
    """Changes the version in use."""

    def __init__(
        self, folder: VersionsFolder, house: UpgradeHouse, policy: TakeoverPolicy, clock: UpgradeClock, say: Say
    ) -> None:
        self._folder = folder
        self._house = house
        self._policy = policy
        self._clock = clock
        self._say = say

    def take(self, version: str) -> None:
        """Make a version the one in use; raises VersionProblem after the old one is back."""
        old, before, ran = self._folder.in_use(), self._folder.before(), self._house.runs()
        if not ran:
            self._folder.take(version)
            return
        try:
            self._change(old, before, version)
        finally:
            self._house.release()

    def _change(self, old: str, before: str, version: str) -> None:
        self._say(f"{old} ends; jobs are finished first")
        self._house.stop()
        self._folder.take(version)
        try:
            self._begin(version)
        except BaseException as error:
            self._go_back(old, before, version, error)
            raise

    def _begin(self, version: str) -> None:
        self._say(f"{version} starts")
        self._house.start(self._policy.ready_s)
        until = self._clock.now() + self._policy.settled_s
        self._say(f"{version} answers; it is watched for {self._policy.settled_s:g} s")
        while True:
            if trouble := self._house.trouble():
                raise VersionProblem(f"{version} does not work: {trouble}")
            if self._clock.now() >= until:
                return
            self._clock.sleep(LOOK_S)

    def _go_back(self, old: str, before: str, version: str, error: BaseException) -> None:
        self._say(f"{error}; going back to {old}")
        try:
            self._house.stop()
        finally:
            self._folder.give_back(old, before)
        try:
            self._house.start(self._policy.ready_s)
        except VersionProblem as problem:
            raise VersionProblem(f"{version} does not work, and {old} does not start again: {problem}") from error
        self._say(f"{old} is back")
