"""What a pipeline of stages costs and how full it is: its slowest stage sets the pace, the whole way the delay."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from twd.decoding.cost import CostCurve
from twd.decoding.window import Target
from twd.wire.model import CostPoint

_LINKS_WEIGHT = 0.1
_YIELD = 0.5
_SLACK = 0.25


class PipelineState:
    """Learned from every pass that comes back, and told of every pass that leaves."""

    def __init__(self, slowest: Sequence[CostPoint], whole: Sequence[CostPoint], links_ms: float, room: int) -> None:
        """`slowest`: times of the slowest stage; `whole`: of all stages together; `room`: passes that may fly."""
        self._slowest = CostCurve(slowest)
        self._whole = CostCurve(whole)
        self.links_ms = links_ms
        self.room = room
        self.flying = 0
        """Passes under way."""
        self._free_at = 0.0
        """When the slowest stage has computed all that left."""

    @property
    def full(self) -> bool:
        """Whether no further pass may leave before one comes back."""
        return self.flying >= self.room

    def step_ms(self, rows: int) -> float:
        """The time between two such passes when one follows the other."""
        return self._slowest.ms(rows)

    def trip_ms(self, rows: int) -> float:
        """From sending such a pass to its verdict, when the pipe is empty."""
        return self.links_ms + self._whole.ms(rows)

    def whole_ms(self, rows: int) -> float:
        """What all stages compute of such a pass."""
        return self._whole.ms(rows)

    def points(self) -> list[CostPoint]:
        """The whole way of passes by their rows, as it is now."""
        return [CostPoint(width=one.width, ms=round(one.ms + self.links_ms, 4)) for one in self._whole.points()]

    def due(self) -> float:
        """From when on a pass should leave: the slowest stage is about to be idle, so nothing waits before it."""
        return self._free_at - _SLACK * self.step_ms(1) / 1000

    def arrival(self, rows: int, now: float) -> float:
        """When the verdict on a pass that leaves now should be here."""
        return max(self._free_at, now) + self.trip_ms(rows) / 1000

    def sent(self, rows: int, now: float) -> None:
        """A pass left."""
        self.flying += 1
        self._free_at = max(self._free_at, now) + self.step_ms(rows) / 1000

    def answered(self) -> None:
        """A pass came back, computed or dropped; when all have, the stages are idle, whatever was expected."""
        self.flying -= 1
        if not self.flying:
            self._free_at = 0.0

    def voided(self, rows: Sequence[int], now: float) -> None:
        """These passes are dropped where they stand, so the stages are idle the sooner."""
        saved = sum(self.step_ms(one) for one in rows) / 1000
        self._free_at = max(min(self._free_at, now), self._free_at - saved)

    def emptied(self, now: float) -> None:
        """Nothing that flies is wanted any more: the next pass finds idle stages."""
        self._free_at = min(self._free_at, now)

    def observe(self, rows: int, trip_ms: float, queued_ms: float, computed_ms: Sequence[float]) -> None:
        """Learn from a pass: how long it was away, how long it waited for stages, how long each computed."""
        if not computed_ms:
            return
        self._slowest.observe(rows, max(computed_ms))
        self._whole.observe(rows, sum(computed_ms))
        links = max(0.0, trip_ms - queued_ms - sum(computed_ms))
        self.links_ms += (_LINKS_WEIGHT if self.links_ms else 1.0) * (links - self.links_ms)
        late = queued_ms - self.step_ms(rows)
        if late > 0.0:  # passes leave faster than they are computed
            self._free_at += _YIELD * min(late, self.step_ms(rows)) / 1000

    def become(self, other: "PipelineState") -> None:
        """Other stages have taken the place of those that were measured; the links are learned again."""
        self._slowest, self._whole, self.links_ms = other._slowest, other._whole, 0.0

    def reset(self, room: int) -> None:
        """The pipe was built anew: all that flew is lost."""
        self.room = room
        self.flying = 0
        self._free_at = 0.0


@runtime_checkable
class PipelinedTarget(Target, Protocol):
    """A target with several passes under way: `submit` never waits, and `collect` gives what has come, if anything.

    One `submit` is one pass, where its windows can be computed together.
    """

    pipe: PipelineState

    def generation(self) -> int:
        """Which building of the pipe stands, counted from 1; 0 while none does. A new one knows no session."""
        ...

    def on_ready(self, call: Callable[[], None]) -> None:
        """Have this called, from any thread, when there is something to collect or another generation."""
        ...
