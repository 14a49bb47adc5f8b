"""Several tokens in one call, where nobody has to look at each of them."""

from typing import Any

import pytest

from tests.speculator.fakes import Driver, FakeTarget, job, make_core, text_of
from twd.decoding.window import Window
from twd.speculator.core.step_runs import AMONG_DRAFTS, MOST_MS, longest_call_ms
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, NodeId
from twd.wire.job import Grammar, GrammarKind, JobFinished, Speculation

PROMPT = [5, 6, 7, 8]
STEP_MS = 10.0
UNDRAFTED = Speculation(enabled=False)


class Watched(FakeTarget):
    """Keeps the windows it was given."""

    def submit(self, windows: Any) -> None:
        self.seen = [*getattr(self, "seen", []), list(windows)]
        super().submit(windows)


def played(
    count: int = 1, steps_ms: float = 45.0, drafter: bool = False, **fields: Any
) -> tuple[Driver, list[list[Window]]]:
    target = Watched()
    core = make_core(target, cost=lambda rows: STEP_MS, steps_ms=steps_ms, **fields.pop("limits", {}))
    if drafter:
        core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False), 0.0)
    driver = Driver(core, target)
    for number in range(count):
        driver.submit(job(f"j{number}", **{"speculation": UNDRAFTED, "max_tokens": 30} | fields), [*PROMPT, number])
    driver.run()
    for number in range(count):
        assert driver.tokens(f"j{number}") == text_of([*PROMPT, number], 30)
    return driver, target.seen


def most(seen: list[list[Window]]) -> int:
    return max(window.steps for windows in seen for window in windows)


def test_a_plain_text_gets_as_many_tokens_as_fit_the_time() -> None:
    driver, seen = played()
    assert most(seen) == 4
    assert seen[0][0].steps == 1, "the first token does not wait for others"
    (end,) = (event for event in driver.told if isinstance(event, JobFinished))
    assert end.stats.passes == end.stats.completion_tokens
    assert (end.stats.checked, end.stats.taken) == (0, 0)


def test_plain_texts_get_their_tokens_together() -> None:
    _, seen = played(count=2)
    assert any(len(windows) == 2 and {window.steps for window in windows} == {4} for windows in seen)


def test_nothing_is_made_beyond_the_end() -> None:
    _, seen = played(max_tokens=30, steps_ms=1000.0)
    for (window,) in seen:
        assert window.at + window.steps <= len(PROMPT) + 1 + 30


@pytest.mark.parametrize(
    "fields",
    [
        {"steps_ms": 0.0},
        {"stop": ["zzz"]},
        {"speculation": Speculation(window=3), "drafter": True},
        {"speculation": Speculation(), "drafter": True},
        {"speculation": Speculation(), "limits": {"head_ms": 1.0}},
    ],
)
def test_texts_that_must_be_looked_at_get_one_token_in_a_call(fields: dict[str, Any]) -> None:
    _, seen = played(**fields)
    assert most(seen) == 1


def test_a_text_with_a_grammar_gets_one_token_in_a_call() -> None:
    _, seen = played(grammar=Grammar(GrammarKind.JSON))
    assert most(seen) == 1


def test_one_text_that_must_be_looked_at_holds_the_others_back() -> None:
    target = Watched()
    driver = Driver(make_core(target, cost=lambda rows: STEP_MS, steps_ms=45.0), target)
    driver.submit(job("j0", speculation=UNDRAFTED, max_tokens=30), PROMPT)
    driver.submit(job("j1", speculation=UNDRAFTED, max_tokens=30, stop=["zzz"]), PROMPT)
    driver.run()
    assert all(window.steps == 1 for windows in target.seen for window in windows if len(windows) == 2)


def test_a_text_that_may_be_copied_from_itself_stops_where_it_repeats() -> None:
    _, seen = played(speculation=Speculation(recall=False))
    runs = [window for windows in seen for window in windows if window.steps > 1]
    assert runs
    assert all(window.repeats > 0 for window in runs)


def test_where_earlier_answers_may_come_again_calls_are_short() -> None:
    _, seen = played(speculation=Speculation(recall=True), limits={"recall_tokens": 1000}, steps_ms=200.0)
    assert 1 < most(seen) <= AMONG_DRAFTS


def test_two_calls_fit_what_is_sent_together() -> None:
    assert longest_call_ms(80) == 40
    assert longest_call_ms(1000) == MOST_MS
    assert longest_call_ms(0) == 0
