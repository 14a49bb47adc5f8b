"""The target's own head: its guesses change speed, never text; it is asked as long as that pays."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.speculator.fakes import VOCAB, Driver, FakeTarget, job, make_core, text_of, truth
from twd.decoding.window import VerifyResult, Window
from twd.wire.job import JobFinished

PROMPT = [5, 6, 7, 8]
COUNT = 200
HEAD_MS = 0.5
"""A pass of one token takes 11."""


@dataclass
class HeadedTarget(FakeTarget):
    """Its head is right in `quality` of the cases."""

    quality: float = 1.0
    asked: int = 0

    def collect(self) -> list[VerifyResult]:
        windows = {window.slot: window for window in self.pending}
        verdicts = super().collect()
        for verdict in verdicts:
            self._guess(windows[verdict.slot], verdict)
        return verdicts

    def _guess(self, window: Window, verdict: VerifyResult) -> None:
        self.asked += window.guesses
        if not verdict.tokens or not window.picks:
            return
        text, chance = [*self.fed[window.slot], verdict.tokens[-1]], 1.0
        for _ in range(window.guesses):
            dice = random.Random(f"{self.quality} {text}")
            right = dice.random() < self.quality
            token = truth(text) if right else dice.randrange(2, VOCAB)
            verdict.guesses.append(token)
            verdict.sure.append(0.9 if right else 0.6)
            text.append(token)
            chance *= verdict.sure[-1]
            if chance < window.least:
                break


def run(
    quality: float, prompts: Sequence[Sequence[int]] = (PROMPT,), *, ngram: bool = True
) -> tuple[Driver, HeadedTarget]:
    target = HeadedTarget(quality=quality)
    driver = Driver(make_core(target, head_ms=HEAD_MS, ngram=ngram), target)
    for number, prompt in enumerate(prompts):
        driver.submit(job(name=f"j{number}", max_tokens=COUNT), list(prompt))
    driver.run()
    return driver, target


def passes(driver: Driver) -> int:
    return next(event.stats.passes for event in driver.told if isinstance(event, JobFinished))


@examples(40)
@given(quality=st.sampled_from([0.0, 0.4, 0.9, 1.0]), seed=st.integers(0, 99), jobs=st.integers(1, 3))
def test_its_guesses_change_no_text(quality: float, seed: int, jobs: int) -> None:
    prompts = [[5 + seed % 40, 6, 7 + number] for number in range(jobs)]
    driver, _ = run(quality, prompts)
    for number, prompt in enumerate(prompts):
        assert driver.tokens(f"j{number}") == text_of(prompt, COUNT)


@pytest.mark.parametrize(("quality", "share"), [(1.0, 0.35), (0.8, 0.6)])
def test_a_good_head_saves_passes(quality: float, share: float) -> None:
    driver, _ = run(quality, ngram=False)
    assert passes(driver) < share * len(text_of(PROMPT, COUNT))


def test_a_bad_head_is_hardly_asked() -> None:
    driver, target = run(0.0, ngram=False)
    assert 0 < target.asked * HEAD_MS < 11.0 * len(text_of(PROMPT, COUNT)) / 20
    assert driver.tokens("j0") == text_of(PROMPT, COUNT)


def test_a_head_that_costs_more_than_a_pass_is_not_asked() -> None:
    _, target = run(1.0, ngram=False)
    assert target.asked
    target = HeadedTarget()
    driver = Driver(make_core(target, head_ms=200.0, ngram=False), target)
    driver.submit(job(max_tokens=COUNT), PROMPT)
    driver.run()
    assert not target.asked


def test_without_a_head_none_is_asked() -> None:
    target = HeadedTarget()
    driver = Driver(make_core(target), target)
    driver.submit(job(max_tokens=COUNT), PROMPT)
    driver.run()
    assert not target.asked
