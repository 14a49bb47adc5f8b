"""How much one pass holds: of a prompt all there is room for, unless texts would wait; of guesses what fits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from tests.speculator.fakes import Driver, FakeTarget, job, make_core, opening, text_of
from twd.decoding.window import Window
from twd.drafting.prediction import Prediction
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, NodeId
from twd.wire.draft import DraftProposed
from twd.wire.job import Speculation
from twd.wire.prefix import prefix_hash

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


def test_a_prompt_is_read_on_however_wide_the_windows_of_others_are() -> None:
    target = Watched(n_slots=4)
    driver = Driver(make_core(target, lambda rows: 20.0 + 0.05 * rows, prefill_rows=64), target)
    for number in range(3):
        prompt, asked = [*SHORT, number], job(f"copies-{number}", max_tokens=1500, ignore_eos=True)
        foretold = replace(opening(asked.job, prompt), prediction=Prediction(text_of(prompt, 1500)))
        driver.core.submit(asked, foretold, driver.now)
    for _ in range(8):
        driver.turn()
    assert 3 * max(target.widths) > 64
    driver.submit(job("reading", max_tokens=4), LONG[:300])
    until = driver.turns + 300 // 32 + 2
    while driver.turns < until:
        driver.turn()
    assert len(driver.core.sessions) == 4
    assert driver.tokens("reading")


def test_a_window_that_was_asked_for_is_no_wider_than_the_target_takes() -> None:
    target = Watched(window_max=8)
    core = make_core(target, max_window=7)
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False), 0.0)
    driver = Driver(core, target)
    prompt = [5, 6, 7]
    driver.submit(job("j", max_tokens=40, speculation=Speculation(window=31)), prompt)
    whole = [*prompt, *text_of(prompt, 40)]

    def guess(driver: Driver) -> None:
        for session in driver.core.by_id.values():
            known = session.tokens
            ahead = whole[len(known) : len(known) + 31]
            event = DraftProposed(
                session=session.id, drafter=InstanceId("d"), at=len(known), prefix=prefix_hash(known), tokens=ahead
            )
            driver.core.draft(event, ahead, driver.now)

    driver.between = guess
    driver.run()
    assert driver.tokens("j") == text_of(prompt, 40)
    assert max(target.widths) == 8
