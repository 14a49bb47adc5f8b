"""A circuit breaker: after some failures in a row a server is left alone for a while."""

import enum


class BreakerState(enum.StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    TRYING = "trying"


class Breaker:
    """Counts failures. While it is open nothing is asked; after the cool-down one call at a time tries again."""

    def __init__(self, failures: int, cooldown_s: float) -> None:
        self._limit = failures
        self._cooldown_s = cooldown_s
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False
        self.why = ""
        """What went wrong last."""

    def state(self, now: float) -> BreakerState:
        """Closed, open, or open for one try."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.TRYING

    def enter(self, now: float) -> bool:
        """Whether a call may be made; one that may must end with `succeeded`, `failed` or `abandoned`."""
        state = self.state(now)
        if state is BreakerState.TRYING and not self._trying:
            self._trying = True
            return True
        return state is BreakerState.CLOSED

    def succeeded(self) -> None:
        """A call went well: everything is forgotten."""
        self._failures, self._open_until, self._trying, self.why = 0, None, False, ""

    def failed(self, now: float, why: str) -> bool:
        """A call went wrong; returns whether the breaker opened by it."""
        self.why = why
        self._failures += 1
        if not self._trying and (self._open_until is not None or self._failures < self._limit):
            return False
        self._open_until, self._trying = now + self._cooldown_s, False
        return True

    def abandoned(self) -> None:
        """A call ended without telling anything of the server."""
        self._trying = False
