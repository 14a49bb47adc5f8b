"""The use of each key: requests per minute, jobs at once, tokens per day. Pure; the time is an argument."""

import math
from dataclasses import dataclass, field

from twd.edge.auth.keys import ApiKey
from twd.wire.failures import FailureCode, TwdError

DAY_MS = 86_400_000


class RateLimited(TwdError):
    """A key has reached one of its limits; `wait_s` is the number of seconds to wait."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(FailureCode.RATE_LIMITED, message)
        self.wait_s = max(1, math.ceil(wait_s))


@dataclass
class _Use:
    """The use of one key. `allowance` is how many requests may come at once now."""

    allowance: float
    at: float
    running: int = 0
    day: int = 0
    tokens: int = 0


@dataclass
class UsageMeter:
    """The use of all keys; a restart of the edge resets it."""

    _uses: dict[str, _Use] = field(default_factory=dict)

    def enter(self, key: ApiKey | None, jobs: int, now: float, wall_ms: int) -> None:
        """Count a request that begins, or raise if a limit is reached."""
        if key is None:
            return
        use = self._use(key, now, wall_ms)
        self.require_left(key, 0, wall_ms)
        if key.concurrent and jobs > key.concurrent:
            text = f"{jobs} answers were asked for at once; key {key.name!r} may have {key.concurrent} in progress"
            raise TwdError(FailureCode.BAD_REQUEST, text, "n")
        if key.concurrent and use.running + jobs > key.concurrent:
            raise RateLimited(f"key {key.name!r} may have {key.concurrent} answers in progress", 1)
        if key.requests_per_minute:
            if use.allowance < 1:
                wait_s = (1 - use.allowance) * 60 / key.requests_per_minute
                raise RateLimited(f"key {key.name!r} may send {key.requests_per_minute} requests a minute", wait_s)
            use.allowance -= 1
        use.running += jobs

    def require_left(self, key: ApiKey | None, tokens: int, wall_ms: int) -> None:
        """Raise if the key has reached its tokens of today; `tokens` are those of a request in progress."""
        if key is None or not key.tokens_per_day:
            return
        use = self._uses.get(key.name)
        before = use.tokens if use is not None and use.day == wall_ms // DAY_MS else 0
        if before + tokens >= key.tokens_per_day:
            left_s = (DAY_MS - wall_ms % DAY_MS) / 1000
            raise RateLimited(f"key {key.name!r} has used its {key.tokens_per_day} tokens of today (UTC)", left_s)

    def leave(self, key: ApiKey | None, jobs: int, tokens: int, now: float, wall_ms: int) -> None:
        """A request has ended; `tokens` is the number of tokens that it used."""
        if key is None:
            return
        use = self._use(key, now, wall_ms)
        use.running = max(0, use.running - jobs)
        use.tokens += tokens

    def _use(self, key: ApiKey, now: float, wall_ms: int) -> _Use:
        use = self._uses.setdefault(key.name, _Use(float(key.requests_per_minute), now))
        rate = key.requests_per_minute / 60
        use.allowance = min(float(key.requests_per_minute), use.allowance + (now - use.at) * rate)
        use.at = now
        if use.day != wall_ms // DAY_MS:
            use.day, use.tokens = wall_ms // DAY_MS, 0
        return use
