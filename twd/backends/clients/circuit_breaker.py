"""A circuit breaker: after some failures a server gets no requests for a while."""

import enum
from math import inf


class BreakerState(enum.StrEnum):
    """Whether calls are allowed."""

    CLOSED = "closed"
    OPEN = "open"
    TRYING = "trying"


class BreakerPermit:
    """The permit of one call. It tells the trial call from older calls that end late."""


class CircuitBreaker:
    """Counts failures. While it is open, no call is allowed; after the cool-down one trial call at a time is allowed.

    A success makes up for `pardon` failures. With infinity, only failures in a row open the breaker; with 0.5, about
    one call in three may fail in the long run.
    """

    def __init__(self, failures: int, cooldown_s: float, pardon: float = inf) -> None:
        self._limit = failures
        self._cooldown_s = cooldown_s
        self._pardon = pardon
        self._failures = 0.0
        self._open_until: float | None = None
        self._trying: BreakerPermit | None = None
        self.why = ""
        """The last failure."""

    def state(self, now: float) -> BreakerState:
        """Closed, open, or trying (one trial call is allowed)."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.TRYING

    def enter(self, now: float) -> BreakerPermit | None:
        """A permit for a call, or None. Each permit must end with `succeeded`, `failed` or `abandoned`."""
        state, call = self.state(now), BreakerPermit()
        if state is BreakerState.TRYING and self._trying is None:
            self._trying = call
            return call
        return call if state is BreakerState.CLOSED else None

    def succeeded(self) -> None:
        """A call succeeded: this closes an open breaker, or makes up for failures."""
        still = self._failures - self._pardon if self._open_until is None else 0.0
        if still <= 0:
            still, self.why = 0.0, ""
        self._failures, self._open_until, self._trying = still, None, None

    def failed(self, now: float, why: str, call: BreakerPermit | None = None) -> bool:
        """A call failed; returns whether this opened the breaker. Without a permit, it counts as an ordinary call, not
        as the trial.
        """
        self.why = why
        self._failures += 1
        tried = call is not None and call is self._trying
        if not tried and (self._open_until is not None or self._failures < self._limit):
            return False
        self._open_until, self._trying = now + self._cooldown_s, None
        return True

    def abandoned(self, call: BreakerPermit | None) -> None:
        """A call ended without a result about the server: if it was the trial call, another one is allowed."""
        if call is self._trying:
            self._trying = None
