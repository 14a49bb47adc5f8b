"""How many drafts are worth verifying on a model whose state must be saved before the pass, and loaded again if a
draft is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

from twd.drafting.window_value import Cost


@dataclass(frozen=True, slots=True)
class UndoCost:
    """The cost of a checkpoint of one session in milliseconds, as measured at load."""

    save_ms: float
    load_ms: float

    def best_cut(self, chances: Sequence[float], cost: Cost, spent_ms: float = 0.0, replay: int = 0) -> int:
        """Returns the same as `window_value.best_cut`, where `replay` tokens of an earlier window must be computed
        again anyway."""
        expected = 1.0
        best, best_rate = 0, 1.0 / (spent_ms + cost(1 + replay))
        for i, chance in enumerate(chances):
            expected += chance
            pass_ms = cost(2 + i + replay)
            rate = expected / (spent_ms + pass_ms + self.extra_ms(chance, expected, cost, replay))
            if rate > best_rate:
                best, best_rate = i + 1, rate
        return best

    def extra_ms(self, chance: float, expected: float, cost: Cost, replay: int = 0) -> float:
        """Returns the milliseconds that a window costs besides its pass: saving a checkpoint (not with `replay`, where
        the last one is still valid), and, if not all drafts are accepted, loading it and more rows in the next
        pass."""
        again = cost(1 + replay + round(expected)) - cost(1)
        return (0.0 if replay else self.save_ms) + (1.0 - chance) * (self.load_ms + again)

    def usual(self, cost: Cost) -> Cost:
        """Returns a cost curve to decide whether drafts can pay at all: it assumes that every second window has a
        wrong draft."""
        return lambda rows: cost(rows) + (self.save_ms + self.load_ms / 2 if rows > 1 else 0.0)
