"""The interface of a source of a file's bytes: another machine, or a hub."""

import enum
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from twd.wire.failures import FailureCode, TwdError


class SourceTrouble(enum.StrEnum):
    """Why a source failed."""

    AWAY = "away"
    """It does not answer, disconnected or was silent for too long: it is tried again after a pause."""
    BUSY = "busy"
    """It said that it is busy now, and maybe for how long."""
    REFUSED = "refused"
    """It refuses this file: wrong token, forbidden address, no such file. It is not asked again."""
    WRONG = "wrong"
    """It sent something else than requested: a redirect, no Range, more bytes. It is not asked again."""


class SourceError(TwdError):
    """The failure of a source; `retry_s` is the pause in seconds that it asked for."""

    def __init__(self, trouble: SourceTrouble, message: str, retry_s: float = 0.0) -> None:
        super().__init__(FailureCode.BACKEND_DOWN, message)
        self.trouble = trouble
        self.retry_s = retry_s


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a source reports: units that it has, units that it fetches now, and hashes that it knows."""

    have: list[int] = []
    coming: list[int] = []
    lost: list[int] = []
    """Units that it stopped to fetch or no longer has."""
    hashes: dict[int, str] = {}
    """Hashes by unit, in hex; only accepted from machines of the same bus, for files from a hub."""


class Source(Protocol):
    """One place to read a file from."""

    name: str
    """The name for messages and for bans."""
    defines: bool
    """True for a hub: its bytes are accepted for units without a known hash; the whole file is checked at the end."""
    most: int
    """The most requests at one time from one puller."""
    least: int
    """Units of one request, if so many are missing: more than 1 for a source that takes long to begin each answer."""

    def news(self) -> AsyncIterator[News]:
        """Yield first what it has, then changes, until it has all; raises SourceError if it goes away."""
        ...

    def read(self, begin: int, length: int) -> AsyncIterator[bytes]:
        """Yield exactly these bytes, in parts of any length; raises SourceError."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
