"""A circuit breaker: after some failures a server is left alone for a while."""

import enum
from math import inf


class BreakerState(enum.StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    TRYING = "trying"


class BreakerPermit:
    """Leave for one call; by it the one that tries again is told from older ones, which end late."""


class CircuitBreaker:
    """Counts failures. While it is open nothing is asked; after the cool-down one call at a time tries again.

    A success makes up for `pardon` failures: for all of them, so that only some in a row open it, or for a half, so
    that in the long run one call in three may fail.
    """

    def __init__(self, failures: int, cooldown_s: float, pardon: float = inf) -> None:
        self._limit = failures
        self._cooldown_s = cooldown_s
        self._pardon = pardon
        self._failures = 0.0
        self._open_until: float | None = None
        self._trying: BreakerPermit | None = None
        self.why = ""
        """What went wrong last."""

    def state(self, now: float) -> BreakerState:
        """Closed, open, or open for one try."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.TRYING

    def enter(self, now: float) -> BreakerPermit | None:
        """Leave for a call, if one may be made; it must end with `succeeded`, `failed` or `abandoned`."""
        state, call = self.state(now), BreakerPermit()
        if state is BreakerState.TRYING and self._trying is None:
            self._trying = call
            return call
        return call if state is BreakerState.CLOSED else None

    def succeeded(self) -> None:
        """A call went well: that closes it, or makes up for failures."""
        still = self._failures - self._pardon if self._open_until is None else 0.0
        if still <= 0:
            still, self.why = 0.0, ""
        self._failures, self._open_until, self._trying = still, None, None

    def failed(self, now: float, why: str, call: BreakerPermit | None = None) -> bool:
        """A call went wrong; returns whether the breaker opened by it. Without leave it was made while all was well."""
        self.why = why
        self._failures += 1
        tried = call is not None and call is self._trying
        if not tried and (self._open_until is not None or self._failures < self._limit):
            return False
        self._open_until, self._trying = now + self._cooldown_s, None
        return True

    def abandoned(self, call: BreakerPermit | None) -> None:
        """A call ended without telling anything of the server: where it was the try, another one may be made."""
        if call is self._trying:
            self._trying = None
