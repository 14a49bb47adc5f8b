"""How well given tokens fit: the same, however they are cut into windows; nothing for the target's own choice."""

import numpy as np
import pytest

from tests.engine.driving import PROMPTS, Greedy, generate, no_drafts, prompt_tokens
from twd.decoding.window import LEAST_GAP, Score, VerifyResult, Window, score
from twd.engine.context import Context, ContextSettings
from twd.engine.model import LoadedGguf
from twd.engine.target import LocalTarget

VOCAB = 8


class Always:
    """Picks one token, whatever the logits are."""

    def __init__(self, token: int) -> None:
        self.token = token

    def pick(self, logits: object, history: object) -> int:
        return self.token


def scored(rows: list[list[float]], tokens: tuple[int, ...], sampler: object = None, ends: bool = False) -> list[Score]:
    window = Window(0, 64, 3, (1, *tokens), scores=True, ends=ends)
    verdict = VerifyResult(0, 64, 3)
    logits = [np.array(row, dtype=np.float32) for row in rows]
    history = [5, 6, 7, 1]
    score(window, verdict, lambda row: logits[row], history, sampler or Greedy(), frozenset({2, 3}))  # type: ignore[arg-type]
    assert verdict.tokens == list(tokens)
    assert history[4:] == list(tokens)
    return verdict.scores


def test_a_gap_is_what_the_choice_is_ahead_by() -> None:
    (one,) = scored([[0.0] * 4 + [3.0, 1.0, 0.0, 0.0]], (5,))
    assert one.gap == pytest.approx(2.0)
    (own,) = scored([[0.0] * 4 + [3.0, 1.0, 0.0, 0.0]], (4,))
    assert own.gap == 0.0
    assert 0.0 > own.logprob > one.logprob


def test_an_even_choice_has_the_most_entropy() -> None:
    (one,) = scored([[1.0] * VOCAB], (0,))
    assert one.entropy == pytest.approx(np.log(VOCAB))
    (sure,) = scored([[90.0] + [-np.inf] * (VOCAB - 1)], (0,))
    assert sure.entropy == pytest.approx(0.0, abs=1e-6)


def test_who_was_not_chosen_has_a_gap_whatever_the_logits_say() -> None:
    (one,) = scored([[5.0] + [0.0] * (VOCAB - 1)], (0,), Always(4))
    assert one.gap == LEAST_GAP


def test_any_end_token_ends_a_text() -> None:
    rows = [[9.0] + [0.0] * 7, [0.0, 0.0, 4.0, 7.0, 6.0, 0.0, 0.0, 0.0]]
    assert scored(rows, (0,), ends=True)[-1].gap == 0.0
    rows[1][5] = 9.5
    assert scored(rows, (0,), ends=True)[-1].gap == pytest.approx(2.5)


@pytest.mark.model
@pytest.mark.parametrize("width", [7, *(pytest.param(width, marks=pytest.mark.thorough) for width in (1, 31))])
def test_windows_score_as_single_steps_do(q4: LoadedGguf, width: int) -> None:
    target = LocalTarget(Context(q4, ContextSettings(ctx_size=512, parallel=1, threads=1)))
    try:
        prompt = prompt_tokens(q4, PROMPTS[0])
        truth = generate(target, prompt, 24, no_drafts, Greedy())
        given = [*truth[:12], truth[3], *truth[13:]]
        whole = _scores(target, prompt, given, 1)
        assert _scores(target, prompt, given, width) == whole
        assert [one.gap for one in whole[:12]] == [0.0] * 12
        assert whole[12].gap > 0.0
    finally:
        target.shutdown()


def _scores(target: LocalTarget, prompt: list[int], given: list[int], width: int) -> list[Score]:
    slot, _ = target.open(prompt, Greedy())
    found: list[Score] = []
    tokens = list(prompt)
    first = True
    for start in range(0, len(given), width):
        piece = tuple(given[start : start + width])
        at, read = (0, tuple(prompt)) if first else (len(tokens) - 1, (tokens[-1],))
        target.submit([Window(slot, 64, at, (*read, *piece), committed=len(read), scores=True)])
        (verdict,) = target.collect()
        assert verdict.failure is None, verdict.failure
        found += verdict.scores
        tokens += piece
        first = False
    target.close(slot)
    return found
