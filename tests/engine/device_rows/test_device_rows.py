"""Logits that stay on a device give the picks that they give at home. Here the processor is the device."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.steps.test_picking import samplings
from tests.engine.steps.test_steps import COUNT, PROMPTS, texts
from tests.engine.tiny_models import VOCABULARY, write_llama
from twd.decoding.sampler import SamplerFactory, TokenSampler
from twd.decoding.steps import PickRule
from twd.decoding.window import Logits, Window
from twd.engine.context import BatchTokens, CacheLayout, Context, ContextSettings
from twd.engine.device_rows.binding import DeviceRows, LogitsPlace
from twd.engine.device_rows.trial import RowsTrial, try_device_rows
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import load_native
from twd.engine.measuring import at_load
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.steps.binding import NativePick, RuleHolder
from twd.engine.target import LocalTarget
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling

pytestmark = pytest.mark.model
WEIGHED = 16
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module", params=[1, 4])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedGguf]:
    """One without and one with equal logits: each of sixteen values stands four times."""
    path = tmp_path_factory.mktemp("lively") / f"lively-{request.param}.gguf"
    with LoadedGguf.load(ModelLoadOptions(write_llama(path, lively=3.0, copies=request.param))) as loaded:
        yield loaded


def context_of(model: LoadedGguf, layout: CacheLayout = CacheLayout.STREAMS) -> Context:
    parallel, branches = (1, 3) if layout is CacheLayout.TREE else (4, 0)
    return Context(model, ContextSettings(128, parallel=parallel, threads=1, layout=layout, branches=branches))


@pytest.fixture
def there(model: LoadedGguf, loop: None) -> Iterator[Context]:
    with context_of(model) as context:
        assert context.leave_logits(LogitsPlace.ANYWHERE)
        yield context


def batch(parts: Sequence[tuple[int, int]]) -> BatchTokens:
    """For each slot so many tokens, of which all from the second number on are wanted."""
    rows = BatchTokens()
    for slot, (count, wanted_from) in enumerate(parts):
        rows.add(slot, 0, [(slot * 13 + at * 7) % VOCABULARY for at in range(count)], wanted_from)
    return rows


def computed(context: Context, rows: BatchTokens) -> dict[int, Logits]:
    for slot in range(4):
        context.clear(slot)
    context.decode(rows)
    return {row: context.logits(row).copy() for row, wanted in enumerate(rows.outputs) if wanted}


@FEW
@given(count=st.integers(1, 9), wanted=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_rows_and_picks_are_those_that_come_home(
    model: LoadedGguf, there: Context, count: int, wanted: list[int]
) -> None:
    rows = batch([(count, one) for one in wanted])
    with context_of(model) as at_home:
        home = computed(at_home, rows)
    assert there.device_rows is not None
    assert {row: logits.tobytes() for row, logits in computed(there, rows).items()} == {
        row: logits.tobytes() for row, logits in home.items()
    }
    for number, (row, logits) in enumerate(home.items()):
        found, chances = there.device_rows.pick(row, judges=2), np.exp(logits - logits.max())
        assert there.peak(row) == logits.argmax()
        if number >= WEIGHED:
            assert found.token < 0, "the chances of so many are not computed there"
            continue
        others = np.delete(logits, found.token)
        assert found.token == logits.argmax()
        assert found.sure == pytest.approx(1.0 / chances.sum(), rel=1e-5)
        assert found.other == others.argmax() + (others.argmax() >= found.token), "the first of equal ones"
        assert found.other_sure == pytest.approx(chances[found.other] / chances.sum(), rel=1e-5)


def test_a_row_that_was_not_wanted_has_no_logits(there: Context) -> None:
    there.decode(batch([(3, 2)]))
    with pytest.raises(TwdError, match="row 1 of the last pass gave no logits"):
        there.logits(1)


def test_passes_without_logits_stand_between(there: Context) -> None:
    wanted, silent = batch([(4, 1)]), batch([(4, 4)])
    first = computed(there, wanted)
    assert not computed(there, silent)
    assert all(np.array_equal(first[row], again) for row, again in computed(there, wanted).items())


def test_logits_come_home_again(model: LoadedGguf, there: Context) -> None:
    rows = batch([(5, 0)])
    before = computed(there, rows)
    there.fetch_logits()
    assert there.peak(0) is None
    assert all(np.array_equal(before[row], again) for row, again in computed(there, rows).items())
    assert there.leave_logits(LogitsPlace.ANYWHERE)
    assert all(np.array_equal(before[row], again) for row, again in computed(there, rows).items())


def test_a_processor_has_them_at_home(model: LoadedGguf, loop: None) -> None:
    with context_of(model) as context:
        assert not context.leave_logits()
        context.decode(batch([(2, 0)]))
        assert np.isfinite(context.logits(0)).all()


def target_of(
    model: LoadedGguf,
    *,
    stays: bool,
    layout: CacheLayout = CacheLayout.STREAMS,
    place: LogitsPlace = LogitsPlace.ANYWHERE,
) -> LocalTarget:
    context = context_of(model, layout)
    assert not stays or context.leave_logits(place)
    return LocalTarget(context)


@FEW
@given(sampling=samplings, steps=st.integers(1, 9), sessions=st.integers(1, 3))
def test_texts_are_the_same(model: LoadedGguf, loop: None, sampling: Sampling, steps: int, sessions: int) -> None:
    home, there = (target_of(model, stays=stays) for stays in (False, True))
    expected = texts(home, sampling, steps, PROMPTS[:sessions])
    found = texts(there, sampling, steps, PROMPTS[:sessions])
    assert [out for out, _ in found] == [out for out, _ in expected]
    for (_, sure), (_, truth) in zip(found, expected, strict=True):
        assert sure == pytest.approx(truth, rel=1e-5)
    home.shutdown()
    there.shutdown()


def drafted(target: LocalTarget, sampling: Sampling, wrong_at: int, parents: bool = False) -> list[int]:
    """A text in windows of drafts, each of which is right up to a place; as trees, the wrong one stands beside it."""
    sampler = SamplerFactory(target.context.model.vocab).sampler(sampling, 3, prompt_len=len(PROMPTS[0]))
    slot, _ = target.open(PROMPTS[0], sampler)
    out = list[int]()
    while len(out) < COUNT:
        last = out[-1:] or list(PROMPTS[0])
        at = len(PROMPTS[0]) + len(out) - 1 if out else 0
        guesses = [(last[-1] * 3 + wrong_at) % VOCABULARY, 5]
        tree = (*range(-1, len(last)), len(last) - 1) if parents else None
        target.submit([Window(slot, 0, at, (*last, *guesses), tree, committed=len(last))])
        (verdict,) = target.collect()
        assert verdict.failure is None, verdict.failure
        out += verdict.tokens
    target.close(slot)
    return out


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8), Sampling(repeat_penalty=1.3)])
@pytest.mark.parametrize("layout", [CacheLayout.STREAMS, CacheLayout.TREE])
def test_windows_of_drafts_are_verified_alike(
    model: LoadedGguf, loop: None, sampling: Sampling, layout: CacheLayout
) -> None:
    found = []
    for stays in (False, True):
        target = target_of(model, stays=stays, layout=layout)
        found.append([drafted(target, sampling, wrong, layout is CacheLayout.TREE) for wrong in range(3)])
        target.shutdown()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.5, min_p=0.2), Sampling(repeat_penalty=1.3, logit_bias={7: 1.0})]
)
def test_windows_need_no_whole_rows(
    model: LoadedGguf, loop: None, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    target = target_of(model, stays=True)
    expected = drafted(target, sampling, 1)

    def refuse(self: TokenSampler, logits: Logits, history: Sequence[int]) -> int:
        raise AssertionError("the logits came home")

    monkeypatch.setattr(TokenSampler, "pick", refuse)
    assert drafted(target, sampling, 1) == expected
    target.shutdown()


def test_logits_that_are_no_numbers_are_told_as_before(tmp_path_factory: pytest.TempPathFactory, loop: None) -> None:
    path = write_llama(tmp_path_factory.mktemp("broken") / "broken.gguf", lively=float("nan"))
    with LoadedGguf.load(ModelLoadOptions(path)) as broken:
        target = target_of(broken, stays=True)
        sampler = SamplerFactory(broken.vocab).sampler(Sampling(), 3, prompt_len=1)
        for steps in (1, 4):
            slot, _ = target.open([1], sampler)
            target.submit([Window(slot, 0, 0, (1,), steps=steps)])
            (verdict,) = target.collect()
            assert verdict.failure is not None
            assert verdict.failure.code is FailureCode.INTERNAL
            assert "not numbers" in verdict.failure.message
            target.close(slot)
        target.shutdown()


def test_a_pass_whose_logits_are_gone_fails_and_later_ones_bring_theirs_home(
    model: LoadedGguf, loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when llama.cpp computes a batch in several parts, each with a graph of its own."""
    with context_of(model) as context:
        rows = batch([(3, 0)])
        home = computed(context, rows)
        assert context.leave_logits(LogitsPlace.ANYWHERE)
        monkeypatch.setattr(context.device_rows, "_begin", lambda *_: 0)
        with pytest.raises(TwdError, match="were not on the device; others come home now"):
            computed(context, rows)
        assert context.device_rows is None
        assert all(np.array_equal(home[row], again) for row, again in computed(context, rows).items())


def test_the_trial_leaves_them_there_where_picks_are_the_same(model: LoadedGguf, loop: None) -> None:
    with context_of(model) as context:
        trial = try_device_rows(context, LogitsPlace.ANYWHERE)
        assert trial.stays, trial
        assert context.device_rows is not None
        assert trial.describe().startswith("logits stay on the card (")
        assert context.end(0) == 0


def test_the_trial_brings_them_home_where_a_pick_is_another(
    model: LoadedGguf, loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with context_of(model) as context:
        monkeypatch.setattr(Context, "peak", lambda self, row: 5 if self.device_rows is not None else None)
        trial = try_device_rows(context, LogitsPlace.ANYWHERE)
        assert not trial.stays
        assert context.device_rows is None
        assert trial.describe() == "logits come home (picks were others on the device)"


def test_the_trial_compares_sampled_picks(model: LoadedGguf, loop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with context_of(model) as context:
        choose = DeviceRows.choose

        def wrong(rows: DeviceRows, row: int, rule: RuleHolder, *about: Any) -> NativePick:
            found = choose(rows, row, rule, *about)
            found.token = 5 if rule.struct.temperature > 0.0 else found.token
            return found

        monkeypatch.setattr(DeviceRows, "choose", wrong)
        trial = try_device_rows(context, LogitsPlace.ANYWHERE)
        assert trial.problem == "picks were others on the device"
        assert context.device_rows is None


@pytest.mark.parametrize("rows_ms", [0.5, 2.0])
def test_sampled_rows_come_home_where_that_is_quicker(model: LoadedGguf, loop: None, rows_ms: float) -> None:
    trial = RowsTrial(stays=True, place=LogitsPlace.ANYWHERE, there_ms=1.0, blocks_ms=1.0, rows_ms=rows_ms)
    assert ("sampled rows come home" in trial.describe()) == (rows_ms < 1.0)
    with context_of(model) as context:
        trial.leave(context)
        context.decode(batch([(2, 0)]))
        sampled = context.choice(1, RuleHolder(PickRule(Sampling(temperature=0.8, min_p=0.5), 1)), (1, 2))
        assert (sampled is None) == (rows_ms < 1.0)
        assert context.peak(1) == context.logits(1).argmax()


def test_where_there_is_nothing_to_try_nothing_is_told(model: LoadedGguf, loop: None) -> None:
    with context_of(model) as context:
        trial = try_device_rows(context)
    assert (trial.stays, trial.describe()) == (False, "")


def test_a_model_that_is_loaded_again_remembers_where_its_logits_stay(
    tmp_path: Path, loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_load, "logits_place", lambda pool, *, offloads: LogitsPlace.ANYWHERE)
    path = write_llama(tmp_path / "lively.gguf", lively=3.0)
    plan = LoadPlan(ModelId("m"), path, ctx_size=128, threads=1, exact=False, test=False, timed=True, memory=tmp_path)
    notes = []
    for _ in range(2):
        native = load_native(plan, lambda *_: None)
        assert native.target.context.device_rows is not None
        assert native.target.open([1, 2], SamplerFactory(native.model.vocab).sampler(Sampling(), 0, prompt_len=2))
        notes.append(native.facts.note)
        native.close()
    assert "logits stay on the card" in notes[0]
    assert notes[1] == notes[0], "its times are those of the first load"


def test_the_trial_brings_them_home_where_a_graph_gives_them_to_more_tokens(
    model: LoadedGguf, loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some architectures do, whatever is asked."""
    with context_of(model) as context:
        begin = DeviceRows.begin
        monkeypatch.setattr(DeviceRows, "begin", lambda rows, outputs: begin(rows, [True] * len(outputs)))
        trial = try_device_rows(context, LogitsPlace.ANYWHERE)
        assert not trial.stays
        assert context.device_rows is None
        assert trial.describe().startswith("logits come home (the logits of a pass were not on the device")
