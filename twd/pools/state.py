"""The state of a pool at one moment, as `twd top`, the edge and the dashboard show it, and its warnings."""

from collections.abc import Iterator
from typing import Final

import msgspec

from twd.pools.slower import slower_because
from twd.wire.node import READY

WASTE_MAX: Final = 2.0
BUSY_MAX: Final = 0.9
OFF_FACTOR: Final = 1.5


class StageState(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's part of a model. Times are means of the last passes; 0 means not known."""

    node: str
    first: int
    end: int
    head: bool = False
    state: str = READY
    process: str = ""
    predicted_ms: float = 0.0
    """Milliseconds for one token, as planned."""
    ms: float = 0.0
    """Milliseconds that a pass computes."""
    queue_ms: float = 0.0
    busy: float = 0.0
    passes: int = 0
    rows: int = 0
    waste: float = 0.0
    """Positions computed here for each position that is kept."""
    dropped: int = 0
    aborted: int = 0
    refused: int = 0
    sessions: int = 0
    to: str = ""
    """The other end of its link: "next" or "home"; for RPC workers always "home"."""
    rtt_ms: float = 0.0
    bytes_per_token: float = 0.0
    """Bytes sent for each computed token."""

    @property
    def layers(self) -> str:
        """The layers as text."""
        held = f"{self.first}-{self.end - 1}" if self.end > self.first else "none"
        return f"{held} + head" if self.head else held


class PoolState(msgspec.Struct, frozen=True, kw_only=True):
    """One model over several machines."""

    model: str
    engine: str
    home: str
    state: str
    exact: bool | None = None
    stages: list[StageState] = []
    sessions: int = 0
    waiting: int = 0
    tok_s: float = 0.0
    waste: float = 0.0
    predicted_ms: float = 0.0
    """Milliseconds for one token without drafts, as planned."""
    token_ms: float = 0.0
    """Milliseconds for one token without drafts, as measured."""
    warnings: list[str] = []
    notes: list[str] = []
    """Remarks of the plan, such as machines that it does not use."""


def forecast(pool: PoolState) -> str:
    """The predicted and the measured time as text; empty without a prediction."""
    if not pool.predicted_ms:
        return ""
    told = f"predicted {pool.predicted_ms:.1f} ms a token"
    if not pool.token_ms:
        return f"{told}, nothing measured yet"
    return f"{told}, measured {pool.token_ms:.1f}: {pool.token_ms / pool.predicted_ms:.2f} times that"


def with_warnings(pool: PoolState, reasons: list[str]) -> PoolState:
    """A copy of the pool with `reasons` and its own warnings."""
    return msgspec.structs.replace(pool, warnings=[*reasons, *_warnings(pool)])


def _warnings(pool: PoolState) -> Iterator[str]:
    away = [f"layers {stage.layers} on {stage.node} {stage.state}" for stage in pool.stages if stage.state != READY]
    if away:
        yield "not ready: " + "; ".join(away)
    if pool.exact is False:
        yield "texts may differ from the unpooled model's: it is not exact"
    if pool.waste > WASTE_MAX:
        yield f"{pool.waste:.1f} positions are computed for each token that stands: the drafts are often wrong"
    slowest = max(pool.stages, key=lambda stage: stage.busy, default=None)
    if slowest is not None and slowest.busy > BUSY_MAX and len(pool.stages) > 1:
        yield f"{slowest.node} ({slowest.layers}) is busy {slowest.busy:.0%} of the time: it sets the pace"
    refused = sum(stage.refused for stage in pool.stages)
    if refused:
        yield f"{refused} windows or frames were refused lately"
    if pool.predicted_ms and pool.token_ms > OFF_FACTOR * pool.predicted_ms:
        why = slower_because(pool)
        yield f"slower than planned: {forecast(pool)}" + (f"; {why}" if why else "")
