"""What a source of a file's bytes is: another machine, or a hub. The puller needs no more than this of it."""

import enum
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from twd.wire.failures import FailureCode, TwdError


class SourceTrouble(enum.StrEnum):
    """Why a source did not give what it was asked for."""

    AWAY = "away"
    """It does not answer, hung up, or was silent for too long: it is tried again after a pause."""
    BUSY = "busy"
    """It said itself that it has no room now, and maybe for how long."""
    REFUSED = "refused"
    """It will not give this file: a wrong token, a forbidden address, no such file. It is not asked again."""
    WRONG = "wrong"
    """It answers something else than what was asked for: a redirection, no Range, more bytes. It is not asked again."""


class SourceError(TwdError):
    """A source failed; `retry_s` is a pause that it asked for."""

    def __init__(self, trouble: SourceTrouble, message: str, retry_s: float = 0.0) -> None:
        super().__init__(FailureCode.BACKEND_DOWN, message)
        self.trouble = trouble
        self.retry_s = retry_s


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a source tells of itself: units that it has, that it fetches now, and hashes that it knows."""

    have: list[int] = []
    coming: list[int] = []
    lost: list[int] = []
    """Units that it gave up fetching, or no longer has."""
    hashes: dict[int, str] = {}
    """By unit, in hex; believed from machines of the same bus alone, for files that come from a hub."""


class Source(Protocol):
    """One place to read a file from."""

    name: str
    """How people know it, and by which it is banned."""
    defines: bool
    """True for a hub: what it gives is taken for units whose hash nobody knows. The whole file is judged in the end."""
    most: int
    """Requests that it takes at once from one puller."""

    def news(self) -> AsyncIterator[News]:
        """First what it has, then what changes, until it has all; raises SourceError where it goes away."""
        ...

    def read(self, begin: int, length: int) -> AsyncIterator[bytes]:
        """Exactly these bytes, in parts of any length; raises SourceError."""
        ...

    async def close(self) -> None:
        """Hang up."""
        ...
