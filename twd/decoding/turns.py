"""What an engine waits for between its steps. A thread really waits; a simulation advances its simulated time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaitForPost:
    """Wait until something is posted, at most this many seconds (None: no limit)."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class WaitForPass:
    """Wait for the submitted pass of `rows` tokens, or for an earlier pass if 0. `collect` does the waiting."""

    rows: int


Wait = WaitForPost | WaitForPass
