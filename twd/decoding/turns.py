"""What an engine's thread waits for between its turns: really in a thread, in played time in a simulation."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaitForPost:
    """Until something is posted, at most for so many seconds."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class WaitForPass:
    """Until the pass over `rows` rows that was submitted is done, or an earlier one for 0; `collect` waits for it."""

    rows: int


Wait = WaitForPost | WaitForPass
