"""A run of steps gives what single steps give, and ends where it must."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.driving import same_logits
from tests.engine.steps.test_picking import samplings
from tests.engine.tiny_models import write_llama
from twd.decoding.sampler import SamplerFactory
from twd.decoding.steps import PickRule
from twd.decoding.window import Logits, VerifyResult, Window
from twd.drafter.native import judge
from twd.drafter.runner import GuessReport
from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.target import LocalTarget
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling

pytestmark = pytest.mark.model
COUNT = 24
PROMPTS = ((1, 5, 9, 2, 7), (3, 3, 8), (11, 4, 60, 2, 2, 2, 9), (40,))


class Recorded(Context):
    """A context that counts the passes that Python starts."""

    passes = 0

    def decode(self, rows: BatchTokens, states: Logits | None = None) -> None:
        self.passes += 1
        super().decode(rows, states)


def make(model: LoadedGguf, parallel: int = 4, ctx_size: int = 128, rows_min: int = 1) -> LocalTarget:
    return LocalTarget(
        Recorded(model, ContextSettings(ctx_size=ctx_size, parallel=parallel, threads=1)), rows_min=rows_min
    )


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedGguf]:
    """A model that says one thing and another."""
    path = write_llama(tmp_path_factory.mktemp("lively") / "lively.gguf", lively=3.0)
    with LoadedGguf.load(ModelLoadOptions(path)) as model:
        yield model


@pytest.fixture
def target(lively: LoadedGguf, loop: None) -> Iterator[LocalTarget]:
    made = make(lively)
    assert made.runs_steps
    yield made
    made.shutdown()


def as_they_are(logits: Logits) -> Logits:
    return logits


def texts(
    target: LocalTarget, sampling: Sampling, steps: int, prompts: Sequence[Sequence[int]], gap: bool = False
) -> list[tuple[list[int], list[float]]]:
    """For each prompt its tokens and their chances, made in calls of up to so many steps."""
    factory = SamplerFactory(target.context.model.vocab)
    slots, outs, sure = [], [], []
    for number, prompt in enumerate(prompts):
        if gap and number == 1:
            unused, _ = target.open([1], factory.sampler(Sampling(), 0, prompt_len=1))
        sampler = factory.sampler(sampling, number, prompt_len=len(prompt))
        slots.append(target.open(prompt, sampler, GuessReport(judge, as_they_are, with_other=True))[0])
        outs.append(list[int]())
        sure.append(list[float]())
    windows = [
        Window(slot, 0, 0, tuple(p), None, committed=len(p), steps=steps)
        for slot, p in zip(slots, prompts, strict=True)
    ]
    while windows:
        target.submit(windows)
        for verdict in target.collect():
            place = slots.index(verdict.slot)
            assert verdict.failure is None, verdict.failure
            outs[place] += verdict.tokens
            sure[place] += [said.logprob for said in verdict.logprobs]
        windows = [
            Window(slot, 0, len(prompt) + len(out) - 1, (out[-1],), steps=min(steps, COUNT - len(out)))
            for slot, prompt, out in zip(slots, prompts, outs, strict=True)
            if len(out) < COUNT
        ]
    for slot in [*slots, unused] if gap else slots:
        target.close(slot)
    return list(zip(outs, sure, strict=True))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sampling=samplings, steps=st.integers(2, 9), sessions=st.integers(1, 3), gap=st.booleans())
def test_runs_give_the_tokens_of_single_steps(
    target: LocalTarget, sampling: Sampling, steps: int, sessions: int, gap: bool
) -> None:
    prompts, gap = PROMPTS[:sessions], gap and sessions > 1
    single = texts(target, sampling, 1, prompts, gap)
    together = texts(target, sampling, steps, prompts, gap)
    assert [out for out, _ in together] == [out for out, _ in single]
    for (_, sure), (_, truth) in zip(together, single, strict=True):
        assert sure == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("rows_min", [2, 4])
def test_padded_passes_leave_nothing_behind(lively: LoadedGguf, loop: None, rows_min: int) -> None:
    target, sampling = make(lively, rows_min=rows_min), Sampling(temperature=0.8)
    assert texts(target, sampling, 8, PROMPTS[:3]) == texts(target, sampling, 8, PROMPTS[:3])
    single = [out for out, _ in texts(target, sampling, 1, PROMPTS[:3], gap=True)]
    assert [out for out, _ in texts(target, sampling, 8, PROMPTS[:3], gap=True)] == single
    target.shutdown()


@pytest.mark.parametrize(("together", "sessions"), [(1, 1), (4, 1), (4, 3)])
def test_passes_of_one_width_are_padded_in_native_code_too(
    lively: LoadedGguf, loop: None, together: int, sessions: int
) -> None:
    target = make(lively)
    target.fix_rows(8, together)
    single = texts(target, Sampling(), 1, PROMPTS[:sessions])
    began = target.context.passes  # type: ignore[attr-defined]
    found = texts(target, Sampling(), 8, PROMPTS[:sessions])
    assert [out for out, _ in found] == [out for out, _ in single]
    assert target.context.passes == began  # type: ignore[attr-defined]
    target.shutdown()


def test_python_starts_no_pass_of_a_run(target: LocalTarget) -> None:
    texts(target, Sampling(temperature=0.8, top_k=10), COUNT, PROMPTS[:1])
    assert target.context.passes == 0  # type: ignore[attr-defined]


def begin(target: LocalTarget, sampler: object, prompt: Sequence[int] = PROMPTS[0]) -> int:
    return target.open(prompt, sampler)[0]  # type: ignore[arg-type]


def one_run(target: LocalTarget, slot: int, prompt: Sequence[int] = PROMPTS[0], **wanted: float) -> VerifyResult:
    target.submit([Window(slot, 0, 0, tuple(prompt), None, committed=len(prompt), **wanted)])  # type: ignore[arg-type]
    (verdict,) = target.collect()
    return verdict


def greedy(target: LocalTarget) -> object:
    return SamplerFactory(target.context.model.vocab).sampler(Sampling(), 0, prompt_len=1)


def test_a_halt_ends_a_run_after_one_step(target: LocalTarget) -> None:
    slot = begin(target, greedy(target))
    target.halt.set()
    assert len(one_run(target, slot, steps=9).tokens) == 1
    target.halt.clear()
    assert len(one_run(target, slot, steps=9).tokens) == 9


def test_a_run_ends_when_it_is_not_sure_enough(target: LocalTarget) -> None:
    reports = GuessReport(judge, as_they_are, with_other=False)
    slot, _ = target.open(PROMPTS[0], greedy(target), reports)  # type: ignore[arg-type]
    sure = np.cumprod([said.logprob for said in one_run(target, slot, steps=12).logprobs])
    least = float(sure[4] + sure[3]) / 2
    assert len(one_run(target, slot, steps=12, least=least).tokens) == 5


def test_a_run_ends_where_the_text_repeats_itself(target: LocalTarget) -> None:
    slot = begin(target, greedy(target))
    whole = [*PROMPTS[0], *one_run(target, slot, steps=40).tokens]
    found = one_run(target, slot, steps=40, repeats=2).tokens
    end = len(PROMPTS[0]) + len(found)

    def known(length: int) -> bool:
        pair = whole[length - 2 : length]
        return any(whole[at : at + 2] == pair for at in range(length - 2))

    assert whole[:end] == [*PROMPTS[0], *found]
    assert known(end)
    assert not any(known(length) for length in range(len(PROMPTS[0]) + 1, end))


def test_a_run_never_goes_beyond_the_context(lively: LoadedGguf, loop: None) -> None:
    target = make(lively, parallel=1, ctx_size=16)
    slot = begin(target, greedy(target))
    assert len(one_run(target, slot, steps=99).tokens) == 16 - len(PROMPTS[0]) + 1
    target.shutdown()


class Unsure:
    """A sampler whose rule leaves every pick to Python."""

    def __init__(self, told: Exception | None = None) -> None:
        self.rule = PickRule(Sampling(temperature=0.5, logit_bias={1: 100.0, 2: 100.0}), 0)
        self.seen: dict[int, Logits] = {}
        self._told = told

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        if self._told is not None:
            raise self._told
        self.seen[len(history)] = logits.copy()
        return 6


def test_what_native_code_cannot_decide_is_left_to_the_sampler(
    target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vocabulary of nothing but doubt: top_p of a flat distribution never has a clear border."""
    asks, plain = Unsure(), Unsure()
    asks.rule = PickRule(Sampling(temperature=0.5, logit_bias={1: 3e38, 2: 3e38}), 0)  # sums that overflow
    asked, told = list[int](), list[int]()
    for sampler, found, steps in ((asks, asked, 4), (plain, told, 1)):
        slot = begin(target, sampler)
        text = list(PROMPTS[0])
        for _ in range(3):
            at = len(text) - 1 if found else 0
            target.submit([Window(slot, 0, at, tuple(text[at:]), None, committed=len(text) - at, steps=steps)])
            (verdict,) = target.collect()
            found += verdict.tokens
            text += verdict.tokens
        target.close(slot)
    assert asked == told == [6, 6, 6]
    assert same_logits(asks.seen, plain.seen)


def test_a_sampler_that_fails_fails_its_window_alone(target: LocalTarget) -> None:
    bad = Unsure(TwdError(FailureCode.INTERNAL, "no"))
    bad.rule = PickRule(Sampling(temperature=0.5, logit_bias={1: 3e38, 2: 3e38}), 0)
    slots = begin(target, bad), begin(target, greedy(target))
    target.submit([Window(slot, 0, 0, PROMPTS[0], None, committed=5, steps=4) for slot in slots])
    failed, fine = sorted(target.collect(), key=lambda verdict: slots.index(verdict.slot))
    assert failed.failure is not None
    assert fine.failure is None
    assert len(fine.tokens) == 1


def test_a_text_of_a_recurrent_model_runs_too(mamba: LoadedGguf, loop: None) -> None:
    context = Context(mamba, ContextSettings(ctx_size=128, parallel=1, threads=1))
    target = LocalTarget(context, can_rollback=False)
    slot = begin(target, greedy(target))
    run = one_run(target, slot, steps=8).tokens
    target.close(slot)
    other = begin(target, greedy(target), [7])
    target.close(other)
    slot, single = begin(target, greedy(target)), list[int]()
    for at in range(8):
        feed = tuple(PROMPTS[0]) if not at else (single[-1],)
        target.submit([Window(slot, 0, 4 + at if at else 0, feed, None, committed=len(feed))])
        single += target.collect()[0].tokens
    assert len(run) == 8
    assert run == single
    target.shutdown()
