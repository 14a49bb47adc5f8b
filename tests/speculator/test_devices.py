"""Whose time is whose: a drafter takes turns with the target only where both compute on the same device."""

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from tests.speculator.fakes import Driver, FakeTarget, job, make_core, opening
from twd.bus.memory.bus import MemoryBroker
from twd.decoding.cost import CostCurve
from twd.drafter.native import NativeDraftModel
from twd.engine.loading import NativeModel
from twd.engine.rollback.find import FoundUndo
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import DrafterConfig, ModelConfig, NgramConfig, Settings, SpeculationConfig
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.limits import SpeculatorLimits, needs_drafters
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.native import limits_of
from twd.speculator.targets.source import ReadySource
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.draft import DeviceKind, DrafterAttached, SessionOpened
from twd.wire.model import CostPoint, VocabFingerprint

CPU, GPU, ELSEWHERE = DeviceKind
NAME = InstanceId("d")


def native(*, offloads: bool) -> NativeModel:
    target = SimpleNamespace(
        n_slots=1, ctx_size=64, window_max=8, trees=False, can_rollback=True, head=None, runs_steps=False
    )
    made: Any = NativeModel.__new__(NativeModel)
    made.model, made.target = SimpleNamespace(offloads=offloads, experts=None), target
    made.facts, made.undo = SimpleNamespace(model="m", can_rollback=True), FoundUndo(None)
    return made  # type: ignore[no-any-return]


@pytest.mark.parametrize(("offloads", "device"), [(False, CPU), (True, GPU)])
def test_a_native_model_computes_where_its_layers_lie(offloads: bool, device: DeviceKind) -> None:
    assert NativeDraftModel(native(offloads=offloads)).device is device
    assert limits_of(native(offloads=offloads), ModelConfig(path="m.gguf"), Settings()).device is device


def attached(
    target: DeviceKind, drafter: DeviceKind, node: str = "n", *, by_text: bool = False, for_model: str = ""
) -> SpeculatorCore:
    """A speculator's core after a drafter has told of itself."""
    core = make_core(FakeTarget(), device=target)
    bus = MemoryBroker().connect("n")
    speculator = SpeculatorService(
        ServiceContext(bus=bus, node=NodeId("n"), clock=SystemClock(), ids=Ids()), ModelId("m"), ReadySource(_no)
    )
    stand_in: Any = speculator
    facts = SimpleNamespace(vocab=core.identity.vocab, size_bytes=0)
    stand_in.loaded = SimpleNamespace(facts=facts, limits=core.limits, cost=CostCurve([CostPoint(width=1, ms=20.0)]))
    stand_in._core = core
    stand_in._runner = SimpleNamespace(post=lambda call, *, droppable: call(core, 0.0))
    vocab = VocabFingerprint(hash="other", tokens=9) if by_text else core.identity.vocab
    event = DrafterAttached(
        drafter=NAME,
        node=NodeId(node),
        model=ModelId("draft"),
        vocab=vocab,
        by_text=by_text,
        device=drafter,
        for_model=ModelId(for_model),
    )
    speculator.on_drafter_attached(event)
    return core


def _no(progress: object) -> Any:
    raise AssertionError("nothing is loaded here")


@pytest.mark.parametrize(
    ("target", "drafter", "node", "beside"),
    [
        (CPU, CPU, "n", True),
        (GPU, GPU, "n", True),
        (GPU, CPU, "n", False),
        (CPU, GPU, "n", False),
        (CPU, CPU, "far", False),
        (ELSEWHERE, CPU, "n", False),
        (ELSEWHERE, ELSEWHERE, "n", False),
    ],
)
def test_who_shares_a_device_with_the_target(target: DeviceKind, drafter: DeviceKind, node: str, beside: bool) -> None:
    assert attached(target, drafter, node).drafter_pool.drafters[NAME].beside is beside


def test_a_drafter_by_text_shares_nothing_that_is_known() -> None:
    assert not attached(CPU, ELSEWHERE, by_text=True).drafter_pool.drafters[NAME].beside


@pytest.mark.parametrize(("for_model", "taken"), [("", True), ("m", True), ("another", False)])
def test_a_drafter_for_another_model_is_left_to_that(for_model: str, taken: bool) -> None:
    assert (NAME in attached(CPU, CPU, for_model=for_model).drafter_pool.drafters) is taken


def test_drafters_are_needed_only_by_models_that_have_some() -> None:
    drafters = (DrafterConfig(path="d.gguf", for_model="a"),)
    models = {"a": ModelConfig(path="a.gguf"), "b": ModelConfig(path="b.gguf")}
    settings = Settings(
        models=models, drafters=drafters, speculation=SpeculationConfig(fallback_on_draft_failure=False)
    )
    assert needs_drafters(settings, "a")
    assert not needs_drafters(settings, "b")
    assert needs_drafters(replace(settings, drafters=(DrafterConfig(path="d.gguf"),)), "b")


def test_how_much_must_agree_before_copying_comes_from_the_settings() -> None:
    settings = Settings(speculation=SpeculationConfig(ngram=NgramConfig(min_match=5)))
    limits = limits_of(native(offloads=False), ModelConfig(path="m.gguf"), settings)
    core = make_core(FakeTarget(), ngram_match=limits.ngram_match)
    core.submit(job(), opening("j", [7, 8, 9, 10, 50, 7, 8, 9, 10]), 0.0)
    assert core.by_job[job().job].ngram.propose()[0] == []
    assert SpeculatorLimits(slots=1, ctx_size=1).ngram_match == Settings().speculation.ngram.min_match


def test_a_session_tells_its_drafters_on_what_the_target_computes() -> None:
    core = attached(GPU, CPU)
    driver = Driver(core, FakeTarget())
    driver.submit(job(), [3, 4, 5])
    driver.turn()
    assert [event.device for event in driver.told if isinstance(event, SessionOpened)] == [GPU]
