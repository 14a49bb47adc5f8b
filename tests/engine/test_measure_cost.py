"""How long passes take: a disturbed measurement of one width does not make passes wider for good."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from twd.decoding.batches import WidthPadding
from twd.engine.context import Context
from twd.engine.measuring import cost
from twd.engine.measuring.cost import doubtful, measure_cost


class Machine:
    """Takes `ms` of each width; the passes of `disturbed` widths take ten times as long for so many tries."""

    def __init__(self, ms: dict[int, float], disturbed: dict[int, int]) -> None:
        self.ms, self.disturbed = ms, disturbed
        self.tries: Counter[int] = Counter()

    def time_pass(self, context: Context, depth: int, rows: int, text: int = 0) -> float:
        self.tries[rows] += 1
        usual = self.ms.get(rows, 5.0 + rows)
        return usual * 10 if self.tries[rows] <= self.disturbed.get(rows, 0) else usual

    def measure(self, monkeypatch: pytest.MonkeyPatch, **how: Any) -> dict[int, float]:
        monkeypatch.setattr(cost, "_time_pass", self.time_pass)
        monkeypatch.setattr(cost, "_pass", lambda *_: None)
        settings = SimpleNamespace(ubatch=64, ctx_size=2048)
        context = SimpleNamespace(settings=settings, end=lambda _: 32, clear=lambda _: None)
        self.points = measure_cost(cast(Context, context), **how)
        return {point.width: point.ms for point in self.points}


def test_a_width_that_was_disturbed_each_time_is_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({}, {1: 9, 4: 9})
    found = machine.measure(monkeypatch)
    assert (found[1], found[4]) == (6.0, 9.0)
    assert WidthPadding(tuple(machine.points)).rows(1) == 1


def test_a_width_that_is_slower_than_a_wider_one_stays_so_after_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({3: 20.0}, {})
    found = machine.measure(monkeypatch)
    assert found[3] == 20.0
    assert WidthPadding(tuple(machine.points)).rows(3) == 4
    assert machine.tries[3] <= 12


def test_what_no_wider_pass_beats_is_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({}, {})
    machine.measure(monkeypatch, budget_s=0.0)
    assert set(machine.tries.values()) <= {1, 2}, machine.tries


def test_doubted_are_those_that_a_wider_one_beat() -> None:
    assert doubtful({1: [9.0, 6.0], 2: [7.0], 4: [7.5, 6.5]}) == [2]
    assert doubtful({1: [9.0] * 12, 2: [7.0]}) == []
    assert doubtful({8: [1.0]}) == []
