"""How much of a prompt one pass reads: all there is room for, unless running texts would wait long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from tests.speculator.fakes import Driver, FakeTarget, job, make_core
from twd.engine.window import Window

SHORT, LONG = [5, 6, 7], list(range(2, 42)) * 20


@dataclass
class Watched(FakeTarget):
    """Notes how wide the windows were."""

    ctx_size: int = 2048
    widths: list[int] = field(default_factory=list)

    def submit(self, windows: Sequence[Window]) -> None:
        self.widths += [len(window.tokens) for window in windows]
        super().submit(windows)


def widest(cost: Callable[[int], float], *, beside: bool) -> int:
    target = Watched()
    driver = Driver(make_core(target, cost, prefill_rows=512), target)
    if beside:
        driver.submit(job("running", max_tokens=400), SHORT)
        for _ in range(3):
            driver.turn()
            driver.read()
    driver.submit(job("reading", max_tokens=4), LONG)
    driver.run()
    return max(target.widths)


@pytest.mark.parametrize(
    ("ms_a_row", "beside", "rows"), [(1.0, False, 512), (1.0, True, 63), (0.5, True, 127), (0.02, True, 511)]
)
def test_a_prompt_is_read_in_chunks_that_others_hardly_notice(ms_a_row: float, beside: bool, rows: int) -> None:
    assert widest(lambda count: ms_a_row * count, beside=beside) == rows
