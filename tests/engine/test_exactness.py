"""The exact settings are exact, others are caught, and the choice fits the weights."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.sliceable_models import write_sliceable
from tests.engine.slices.recipes import recipe
from tests.engine.tiny_models import write_llama
from twd.engine import exactness as exactness_module
from twd.engine import model as model_module
from twd.engine.context import CacheLayout, Context, ContextSettings
from twd.engine.exactness import ExactPlan, exact_plan, fixed_rows, self_test, sessions_together
from twd.engine.kernels import any_kernels
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import load_native
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.probe import can_rollback
from twd.engine.quantize import quantize
from twd.engine.target import LocalTarget
from twd.wire.base import ModelId
from twd.wire.model import CostPoint, Exactness

WANTED = ContextSettings(ctx_size=768, parallel=3, threads=1, type_k="f16", layout=CacheLayout.UNIFIED)


def measure(model: LoadedGguf, exact: bool) -> Exactness:
    plan = exact_plan(model, WANTED, exact)
    with Context(model, plan.settings) as context:
        return self_test(LocalTarget(context, rows_min=plan.rows_min), plan.describe(), budget_s=60)


@pytest.mark.model
def test_quantised_weights_are_exact_below_and_above_512_cells(q4: LoadedGguf) -> None:
    verdict = measure(q4, exact=True)
    assert (verdict.exact, verdict.flipped, verdict.max_difference, verdict.compared) == (True, 0, 0.0, 32)
    assert f"K {'f16' if any_kernels() else 'q8_0'}, V f16, streams, rows >= 1" in verdict.settings


@pytest.mark.thorough
@pytest.mark.model
def test_float_weights_are_exact_with_one_row_or_two(f16: LoadedGguf) -> None:
    verdict = measure(f16, exact=True)
    assert (verdict.exact, verdict.compared) == (True, 32)
    assert f"rows >= {1 if any_kernels() else 2}" in verdict.settings


@pytest.mark.thorough
@pytest.mark.model
def test_without_our_kernels_unlike_types_and_two_rows_are_exact(f16: LoadedGguf) -> None:
    plan = exact_plan(f16, WANTED, exact=True, kernels=False)
    settings = plan.settings
    assert (plan.rows_min, plan.ours, settings.type_k, settings.type_v) == (2, False, "q8_0", "f16")
    with Context(f16, settings) as context:
        assert self_test(LocalTarget(context, rows_min=2), "two rows", budget_s=60).exact


def test_what_other_devices_compute_gets_the_types_that_are_wanted(
    tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = exact_plan(tiny, WANTED, True, kernels=False)
    assert alone.settings.type_k != alone.settings.type_v
    monkeypatch.setattr(tiny, "offloads", True)
    assert exact_plan(tiny, WANTED, True) == ExactPlan(WANTED)
    assert exact_plan(tiny, WANTED, True, on_cpus=True, kernels=False) == alone


def test_who_insists_gets_passes_of_one_width_on_other_devices(
    tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "offloads", True)
    plan = exact_plan(tiny, WANTED, True, insist=True)
    assert plan.fixed
    assert (plan.settings.layout, plan.settings.type_k, plan.settings.type_v) == (CacheLayout.STREAMS, "f16", "f16")
    assert "rows = 16" in plan.describe(16)
    assert exact_plan(tiny, WANTED, False, insist=True) == ExactPlan(WANTED)
    tree = ContextSettings(parallel=1, layout=CacheLayout.TREE, branches=3)
    assert exact_plan(tiny, tree, True, insist=True) == ExactPlan(tree)


@pytest.mark.skipif(not any_kernels(), reason="where they are, llama.cpp repacks Q4_K")
def test_passes_of_one_width_are_exact_where_other_widths_take_other_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "need_no_repacking", lambda blocks: False)  # repacked, one row goes another way
    settings = ContextSettings(
        ctx_size=768, parallel=2, threads=1, type_k="f16", type_v="f16", layout=CacheLayout.STREAMS
    )
    path = quantize(write_llama(tmp_path / "floats.gguf", width=256), tmp_path / "q4_k.gguf", "q4_k_m")
    with LoadedGguf.load(ModelLoadOptions(path)) as model, Context(model, settings) as context:
        target = LocalTarget(context)
        assert not self_test(target, "as it comes", budget_s=60).exact
        target.fix_rows(16)
        verdict = self_test(target, "one width", budget_s=60)
        assert (verdict.exact, verdict.max_difference, verdict.compared) == (True, 0.0, 32)
        target.fix_rows(8, together=2)
        verdict = self_test(target, "one width for two", budget_s=60)
        assert (verdict.exact, verdict.max_difference, verdict.compared) == (True, 0.0, 36)


@pytest.mark.skipif(not any_kernels(), reason="where they are, llama.cpp repacks Q4_K")
def test_weights_whose_repacking_is_not_exact_are_loaded_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "need_no_repacking", lambda blocks: False)
    path = quantize(write_llama(tmp_path / "floats.gguf", width=256), tmp_path / "q4_k.gguf", "q4_k_m")
    plan = LoadPlan(ModelId("one"), path, ctx_size=1024, threads=1, memory=tmp_path / "memory")
    for _ in range(2):  # the second remembers what the first found
        native = load_native(plan, lambda share, stage: None)
        native.close()
        assert (native.exactness.exact, native.model.repacked) == (True, False)
    loose = load_native(replace(plan, exact=False), lambda share, stage: None)
    loose.close()
    assert loose.model.repacked


@pytest.mark.parametrize("kind", ["q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs", "q5_0", "bf16"])
def test_weights_of_every_usual_type_are_exact(tmp_path: Path, kind: str) -> None:
    path = quantize(write_llama(tmp_path / "floats.gguf", width=256), tmp_path / f"{kind}.gguf", kind)
    native = load_native(LoadPlan(ModelId("one"), path, ctx_size=1024, threads=1), lambda *_: None)
    try:
        assert native.exactness.exact, native.exactness
    finally:
        native.close()


@pytest.mark.skipif(not any_kernels(), reason="without them, float weights need two rows")
@pytest.mark.parametrize("architecture", ["qwen35", "mamba2", "lfm2", "nemotron_h", "rwkv6"])
def test_a_step_of_a_model_with_a_recurrent_state_is_one_row(tmp_path: Path, architecture: str) -> None:
    path = quantize(recipe(architecture).write(tmp_path / "floats.gguf"), tmp_path / "q8_0.gguf", "q8_0")
    plan = LoadPlan(ModelId("m"), path, ctx_size=256, parallel=1, threads=1)
    native = load_native(plan, lambda share, stage: None)
    native.close()
    assert (native.exactness.exact, native.exactness.flipped) == (True, 0)
    assert "rows >= 1" in native.exactness.settings


@pytest.mark.parametrize("architecture", ["deepseek2", "llama", "gpt-oss"])
def test_steps_of_several_sessions_are_those_of_one(tmp_path: Path, architecture: str) -> None:
    """Of latent attention, a single row lies in one piece where several do not."""
    with LoadedGguf.load(ModelLoadOptions(write_sliceable(architecture, tmp_path))) as model:
        found = measure(model, exact=True)
        assert found.exact, found


@pytest.mark.parametrize(
    ("costs", "rows"),
    [
        ({8: 5.8, 16: 7.0, 24: 7.8, 32: 8.6}, 8),  # a pass costs by its rows
        ({8: 21.0, 16: 23.1, 24: 8.8, 32: 9.4}, 24),  # wide ones are cheaper than narrow ones
        ({8: 1.94, 16: 2.15, 24: 2.26, 32: 2.31}, 16),  # rows cost next to nothing, guesses seldom hold so long
        ({1: 1.0}, 8),
    ],
)
def test_the_width_of_all_passes_is_that_of_the_best_speed(costs: dict[int, float], rows: int) -> None:
    assert fixed_rows([CostPoint(width=width, ms=ms) for width, ms in costs.items()]) == rows


@pytest.mark.parametrize(
    ("costs", "sessions", "together", "rows"),
    [
        ({8: 7.15, 16: 7.87, 24: 8.68, 32: 9.36, 64: 11.8}, 16, 4, 8),  # Q8_0 of 8 billion on a large card
        ({8: 21.0, 16: 23.1, 24: 8.8, 32: 9.4, 64: 14.0}, 4, 4, 8),
        ({8: 5.0, 16: 10.0, 32: 20.0, 64: 40.0}, 4, 1, 8),  # each row costs: sharing brings nothing
        ({8: 5.0, 16: 5.0, 32: 5.0, 64: 5.0}, 8, 8, 8),
        ({8: 5.0, 16: 5.0, 32: 5.0, 64: 5.0}, 5, 1, 16),
        ({8: 5.0, 16: 5.0, 32: 5.0, 64: 5.0}, 1, 1, 16),
        ({1: 1.0}, 4, 1, 8),
    ],
)
def test_sessions_share_passes_where_one_alone_loses_little(
    costs: dict[int, float], sessions: int, together: int, rows: int
) -> None:
    points = [CostPoint(width=width, ms=ms) for width, ms in costs.items()]
    assert sessions_together(points, sessions) == together
    assert fixed_rows(points, together) == rows


def test_inexact_settings_are_found_out(tiny: LoadedGguf) -> None:
    verdict = measure(tiny, exact=False)
    assert not verdict.exact
    assert verdict.max_difference > 0
    assert verdict.compared == 32


@pytest.mark.model
def test_rows_are_doubled_only_where_floats_are_multiplied_without_our_kernels(
    q4: LoadedGguf, tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ours, rows in ((True, 1), (False, 2)):
        monkeypatch.setattr(exactness_module, "one_row_like_many", lambda _, ours=ours: ours)
        monkeypatch.setattr(exactness_module, "has_attention", lambda *_, ours=ours: ours)
        plan = exact_plan(tiny, WANTED, exact=True)
        assert (plan.rows_min, plan.ours, plan.settings.type_k == plan.settings.type_v) == (rows, ours, ours)
        assert exact_plan(tiny, WANTED, exact=True, kernels=False).rows_min == 2
        assert exact_plan(q4, WANTED, exact=True).rows_min == 1
    assert exact_plan(q4, WANTED, exact=False).settings == WANTED


def test_trees_keep_their_layout(tiny: LoadedGguf) -> None:
    tree = ContextSettings(parallel=1, layout=CacheLayout.TREE, branches=3)
    assert exact_plan(tiny, tree, exact=True).settings.layout is CacheLayout.TREE


def test_a_model_without_rollback_has_nothing_to_compare(mamba: LoadedGguf) -> None:
    with Context(mamba, ContextSettings(ctx_size=128, threads=1)) as context:
        assert not can_rollback(context)
        verdict = self_test(LocalTarget(context, can_rollback=False), "plain")
        assert verdict.exact
        assert verdict.compared == 0
        assert "no drafts" in verdict.settings


def test_a_model_that_can_roll_back_is_found_to(tiny: LoadedGguf) -> None:
    with Context(tiny, ContextSettings(ctx_size=128, threads=1)) as context:
        assert can_rollback(context)
        assert context.end(0) == 0
