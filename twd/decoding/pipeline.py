"""The timing model of a pipeline of stages, and its passes under way.

The slowest stage limits the throughput; all stages and links together give the latency.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from twd.decoding.cost import CostCurve
from twd.decoding.window import Target
from twd.wire.model import CostPoint

_LINKS_WEIGHT = 0.1
_YIELD = 0.5
_SLACK = 0.25


class PipelineState:
    """The state of a pipeline. It counts passes that are sent and learns from those that return.

    `rows` is n_tokens of a pass; `now` and the times it returns without `_ms` are in seconds.
    """

    def __init__(self, slowest: Sequence[CostPoint], whole: Sequence[CostPoint], links_ms: float, room: int) -> None:
        """`slowest`: times of the slowest stage; `whole`: of all stages together; `room`: most passes under way."""
        self._slowest = CostCurve(slowest)
        self._whole = CostCurve(whole)
        self.links_ms = links_ms
        self.room = room
        self.flying = 0
        """Passes under way."""
        self._free_at = 0.0
        """The time when the slowest stage has computed all passes that were sent."""

    @property
    def full(self) -> bool:
        """Whether no more passes may be sent before one returns."""
        return self.flying >= self.room

    def step_ms(self, rows: int) -> float:
        """The time in ms between two such passes, when one follows the other."""
        return self._slowest.ms(rows)

    def trip_ms(self, rows: int) -> float:
        """The time in ms from sending such a pass to its results, when the pipeline is empty."""
        return self.links_ms + self._whole.ms(rows)

    def whole_ms(self, rows: int) -> float:
        """The time in ms that all stages together compute for such a pass."""
        return self._whole.ms(rows)

    def points(self) -> list[CostPoint]:
        """The current cost points of a whole trip: computing and links, in ms by n_tokens."""
        return [CostPoint(width=one.width, ms=round(one.ms + self.links_ms, 4)) for one in self._whole.points()]

    def due(self) -> float:
        """The earliest time to send the next pass: the slowest stage is nearly idle then, so the pass will not wait."""
        return self._free_at - _SLACK * self.step_ms(1) / 1000

    def arrival(self, rows: int, now: float) -> float:
        """The expected time of the results of a pass that is sent now."""
        return max(self._free_at, now) + self.trip_ms(rows) / 1000

    def sent(self, rows: int, now: float) -> None:
        """A pass was sent."""
        self.flying += 1
        self._free_at = max(self._free_at, now) + self.step_ms(rows) / 1000

    def answered(self) -> None:
        """A pass returned, computed or dropped. When all have returned, the stages are idle, whatever was expected."""
        self.flying -= 1
        if not self.flying:
            self._free_at = 0.0

    def voided(self, rows: Sequence[int], now: float) -> None:
        """These passes are dropped on their way, so the stages become idle earlier. `rows`: n_tokens of each."""
        saved = sum(self.step_ms(one) for one in rows) / 1000
        self._free_at = max(min(self._free_at, now), self._free_at - saved)

    def emptied(self, now: float) -> None:
        """No pass under way is needed any more, so the next pass finds idle stages."""
        self._free_at = min(self._free_at, now)

    def observe(self, rows: int, trip_ms: float, queued_ms: float, computed_ms: Sequence[float]) -> None:
        """Learn from a pass: its whole trip, its wait for stages, and the computing of each stage, all in ms."""
        if not computed_ms:
            return
        self._slowest.observe(rows, max(computed_ms))
        self._whole.observe(rows, sum(computed_ms))
        links = max(0.0, trip_ms - queued_ms - sum(computed_ms))
        self.links_ms += (_LINKS_WEIGHT if self.links_ms else 1.0) * (links - self.links_ms)
        late = queued_ms - self.step_ms(rows)
        if late > 0.0:  # passes are sent faster than they are computed
            self._free_at += _YIELD * min(late, self.step_ms(rows)) / 1000

    def become(self, other: "PipelineState") -> None:
        """Take the costs of `other`, because other stages replace the measured ones. The links are learned again."""
        self._slowest, self._whole, self.links_ms = other._slowest, other._whole, 0.0

    def reset(self, room: int) -> None:
        """The pipeline was built again; all passes under way are lost."""
        self.room = room
        self.flying = 0
        self._free_at = 0.0


@runtime_checkable
class PipelinedTarget(Target, Protocol):
    """A target with several passes under way. `submit` never waits; `collect` returns the results that have arrived.

    One `submit` is one pass, if its windows can be computed together.
    """

    pipe: PipelineState

    def generation(self) -> int:
        """The number of times the pipeline was built; 0 while there is none. A new one has no sessions."""
        ...

    def on_ready(self, call: Callable[[], None]) -> None:
        """Set a callback for results to collect or a new generation. It may run on any thread."""
        ...
