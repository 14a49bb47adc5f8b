"""What must hold on a card, whatever card it is. On one of your own: `pytest tests/engine/cards/on_a_card.py`."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine.device_rows.test_device_rows import batch, computed, context_of, drafted, target_of
from tests.engine.driving import Greedy, generate
from tests.engine.experts.unlike import write_unlike
from tests.engine.steps.test_steps import PROMPTS, texts
from tests.engine.tiny_models import write_llama
from twd.agent.detect import MachineDetector
from twd.coordinator.core.machines.devices import find_devices
from twd.decoding.sampler import SamplerFactory
from twd.engine.device_rows.binding import LogitsPlace
from twd.engine.device_rows.choices import USUAL
from twd.engine.device_rows.trial import try_device_rows
from twd.engine.library import EngineDevice, buffer_name, devices
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import load_native
from twd.engine.measuring import at_load, cost
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.slices.engine import StageEngine, StagePlan
from twd.engine.steps.binding import RuleHolder
from twd.engine.target import LocalTarget
from twd.gguf_tools.slice import write_slice
from twd.moe.model import read_mixture
from twd.moe.on_devices import device_placement
from twd.moe.placement import USABLE, DeviceScore, place
from twd.moe.summary import summarize
from twd.settings.model import PoolConfig, Settings
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.job import Sampling
from twd.wire.node import CPU

pytestmark = [pytest.mark.model, pytest.mark.card]
ALL_LAYERS = 99
ROWS = 8
"""Each further width of passes would cost llvmpipe a minute the first time: it compiles kernels for each."""


@pytest.fixture(scope="module")
def card() -> EngineDevice:
    found = [device for device in devices() if device.is_gpu]
    if not found:
        pytest.skip("llama.cpp sees no card here")
    return found[0]


@pytest.fixture(scope="module", params=[1, 4])
def model(
    card: EngineDevice, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedGguf]:
    """One without and one with equal logits: each of sixteen values stands four times."""
    path = write_llama(tmp_path_factory.mktemp("card") / "lively.gguf", lively=3.0, copies=request.param)
    with LoadedGguf.load(ModelLoadOptions(path, gpu_layers=ALL_LAYERS)) as loaded:
        assert loaded.offloads
        yield loaded


@pytest.fixture
def one_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of one width are measured at load."""
    monkeypatch.setattr(cost, "WIDTHS", (ROWS,))
    monkeypatch.setattr(cost, "_DEPTH", ROWS)
    monkeypatch.setattr(at_load, "SHARED_WIDTHS", ())


def assert_drafts_change_nothing(target: LocalTarget) -> None:
    prompt = list(PROMPTS[0])
    plain = generate(target, prompt, 12)
    wrong = generate(target, prompt, 12, lambda out: [7, 7, 7])
    right = generate(target, prompt, 12, lambda out: plain[len(out) : len(out) + 4])
    assert plain == wrong == right


async def test_a_plan_knows_the_card(card: EngineDevice, tmp_path: Path) -> None:
    node = NodeId("here")
    detector = MachineDetector(Settings(home=str(tmp_path)), node, InstanceId("1"), 1)
    facts = await detector.look(0.0)
    found = find_devices([facts], PoolConfig(), node)
    assert card.description in {gpu.name for gpu in facts.gpus}
    assert any(device.name != CPU and device.free > 0 for device in found.devices), found


def test_with_insistence_drafts_change_nothing(card: EngineDevice, tmp_path: Path, loop: None, one_width: None) -> None:
    """The self-test tells whether windows are exact; texts with wrong, right and no drafts tell if that is so."""
    path = write_llama(tmp_path / "lively.gguf", lively=3.0)
    plan = LoadPlan(ModelId("card"), path, ctx_size=128, parallel=2, threads=1, insist=True, gpu_layers=ALL_LAYERS)
    native = load_native(plan, lambda *_: None)
    try:
        assert native.exactness.exact, native.exactness
        assert native.exactness.compared > 0
        assert "logits" in native.facts.note
        assert_drafts_change_nothing(native.target)
    finally:
        native.close()


def on_the_card(model: LoadedGguf, *, stays: bool) -> LocalTarget:
    target = target_of(model, stays=stays, place=LogitsPlace.CARD)
    target.fix_rows(ROWS)
    return target


def test_rows_and_picks_are_those_that_come_home(model: LoadedGguf, loop: None) -> None:
    with context_of(model) as context:
        for shape in ([(1, 0)], [(ROWS, 0)], [(ROWS, ROWS - 1)], [(2, 0)] * 4):
            rows = batch(shape)
            context.fetch_logits()
            home = computed(context, rows)
            assert context.leave_logits(), "this card can do it"
            assert {row: one.tobytes() for row, one in computed(context, rows).items()} == {
                row: one.tobytes() for row, one in home.items()
            }
            assert {row: context.peak(row) for row in home} == {row: one.argmax() for row, one in home.items()}


def test_sampled_picks_come_from_blocks(model: LoadedGguf, loop: None) -> None:
    """Of one row several blocks come home in one go; each pick is the sampler's."""
    with context_of(model) as context:
        assert context.leave_logits()
        computed(context, batch([(ROWS, 0)]))
        known, history = 0, list(range(20))
        for seed, sampling in enumerate(USUAL * 4):
            sampler = SamplerFactory(model.vocab).sampler(sampling, seed, prompt_len=0)
            assert sampler.rule is not None
            for row in range(ROWS):
                token = context.choice(row, RuleHolder(sampler.rule), history)
                assert token in (None, sampler.pick(context.logits(row), history))
                known += token is not None
        assert known > len(USUAL) * ROWS


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, top_k=20), Sampling(repeat_penalty=1.3)])
def test_texts_are_the_same_where_logits_stay(model: LoadedGguf, loop: None, sampling: Sampling) -> None:
    found = []
    for stays in (False, True):
        target = on_the_card(model, stays=stays)
        assert stays == (target.context.device_rows is not None)
        steps = [[out for out, _ in texts(target, sampling, steps, PROMPTS[:2])] for steps in (1, 6)]
        found.append((steps, [drafted(target, sampling, wrong) for wrong in range(2)]))
        target.shutdown()
    assert found[0] == found[1]


def test_the_last_stage_of_a_ring_leaves_its_logits_there(card: EngineDevice, tmp_path: Path, loop: None) -> None:
    whole, cut = write_llama(tmp_path / "lively.gguf", lively=3.0), tmp_path / "head.gguf"
    write_slice(whole, 1, 2, cut, head=True)
    with StageEngine.load(StagePlan(cut, 1, 2, 2, True, 128, 2, gpu_layers=ALL_LAYERS, threads=1)) as stage:
        rows, history = batch([(ROWS, 0)]), list(range(20))
        states = np.random.default_rng(3).standard_normal((ROWS, stage.n_embd), np.float32)
        stage.context.fetch_logits()
        stage.decode(rows, states)
        home = [stage.logits(row).copy() for row in range(ROWS)]
        stage.clear(0)
        assert stage.context.leave_logits()
        stage.decode(rows, states)
        assert [stage.logits(row).tobytes() for row in range(ROWS)] == [one.tobytes() for one in home]
        for sampling in (Sampling(), *USUAL):
            sampler = SamplerFactory(stage.model.vocab).sampler(sampling, 5, prompt_len=0)
            for row, logits in enumerate(home):
                assert stage.choice(row, sampler, history) in (None, sampler.pick(logits, history))


def test_steps_in_one_call_give_what_single_ones_give(model: LoadedGguf, loop: None) -> None:
    target = on_the_card(model, stays=True)
    single, together = (texts(target, Sampling(), steps, PROMPTS[:1]) for steps in (1, 8))
    target.shutdown()
    assert [out for out, _ in together] == [out for out, _ in single]


def test_the_trial_finds_the_same_logits_and_picks(model: LoadedGguf, loop: None) -> None:
    with context_of(model) as context:
        trial = try_device_rows(context)
    assert trial.there_ms > 0.0
    assert not trial.problem


def test_a_text_goes_on_after_rollback_as_if_nothing_had_been(model: LoadedGguf) -> None:
    target = on_the_card(model, stays=False)
    prompt = list(PROMPTS[0])
    plain = generate(target, prompt, 20, sampler=Greedy())
    assert generate(target, prompt, 20, lambda out: [9, 8, 7, 6], Greedy()) == plain
    target.shutdown()


def test_experts_of_a_mixture_lie_where_the_plan_says(
    card: EngineDevice, tmp_path: Path, loop: None, one_width: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A card with room for a half of the experts: llama.cpp logs buffers of that size, and drafts change nothing."""
    caplog.set_level("DEBUG", "twd.engine.llama")
    path = write_unlike(tmp_path / "unlike.gguf")
    facts = summarize(read_mixture(path))
    room = DeviceScore(buffer_name(card), int((facts.resident + 0.6 * facts.expert) / USABLE), 500e9, 20e-6)
    plan = place(facts, [room, DeviceScore("CPU", 1 << 40, 10e9, disk=1e9)])
    placement = device_placement(plan, [card])
    on_card = next(share for share in plan.shares if not share.device.host)
    assert 0 < on_card.expert_bytes < facts.expert
    load = LoadPlan(ModelId("card"), path, ctx_size=128, parallel=2, threads=1, insist=True, gpu_layers=ALL_LAYERS)
    native = load_native(replace(load, placement=placement), lambda *_: None)
    try:
        sizes = re.findall(rf"{re.escape(buffer_name(card))} model buffer size = +([\d.]+) MiB", caplog.text)
        held = on_card.dense_bytes + on_card.expert_bytes
        assert [float(size) * 2**20 for size in sizes] == [pytest.approx(held, rel=0.05)]
        assert_drafts_change_nothing(native.target)
    finally:
        native.close()
