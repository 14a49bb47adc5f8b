"""What `twd run stage` makes of its options."""

import logging
import random
from pathlib import Path

import pytest

from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import LoopClock
from twd.kit.errors import CommandError
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import ModelConfig, Settings
from twd.stage.native import SlicePlan
from twd.stage.service import StageService
from twd.supervisor.stage_options import StageChoice, stage_of
from twd.wire.base import NodeId


@pytest.fixture
async def ctx() -> ServiceContext:
    bus = MemoryBroker(1).connect("n")
    log = logging.getLogger("stage")
    return ServiceContext(bus=bus, node=NodeId("n"), clock=LoopClock(), ids=Ids(random.Random(1)), log=log)


async def test_a_stage_is_named_by_its_option_its_settings_or_its_file(ctx: ServiceContext, tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path), models={"big": ModelConfig(path="/models/x.gguf")})
    for model, choice, name in (
        ("big", StageChoice(layers="0-16"), "big"),
        ("/models/other.gguf", StageChoice(layers="16-32", head=True), "other"),
        ("/models/other.gguf", StageChoice(name="big", host="0.0.0.0", gpu_layers="7"), "big"),
    ):
        stage = stage_of(ctx, settings, model, choice)
        assert isinstance(stage, StageService)
        assert stage.model == name


async def test_a_stage_keeps_to_the_device_that_it_is_told(
    ctx: ServiceContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[SlicePlan] = []
    monkeypatch.setattr("twd.stage.native.native_stage", lambda ctx, settings, plan, address: told.append(plan))
    for device in ("", "CPU", "CUDA1"):
        choice = StageChoice(layers="0-4", device=device, hash="abc", no_mmap=True)
        stage_of(ctx, Settings(home=str(tmp_path)), "a.gguf", choice)
    assert [(one.stage.device, bool(one.stage.gpu_layers)) for one in told] == [
        ("", True),
        ("", False),
        ("CUDA1", True),
    ]
    assert {(one.hash, one.stage.use_mmap, one.stage.flash_attention) for one in told} == {("abc", False, True)}


async def test_what_is_told_of_experts_wins_over_the_settings(
    ctx: ServiceContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[SlicePlan] = []
    monkeypatch.setattr("twd.stage.native.native_stage", lambda ctx, settings, plan, address: told.append(plan))
    entry = ModelConfig(path="/models/x.gguf", moe_stream="on", moe_memory_gb=2)
    settings = Settings(home=str(tmp_path), models={"big": entry})
    for model, choice in (
        ("big", StageChoice()),
        ("big", StageChoice(moe_stream="off", moe_memory=7)),
        ("x.gguf", StageChoice(moe_stream="on", moe_memory=7)),
        ("x.gguf", StageChoice()),
    ):
        stage_of(ctx, settings, model, choice)
    wishes = [(one.experts.stream, one.experts.memory) for one in told]
    assert wishes == [("on", 2 << 30), ("off", 7), ("on", 7), ("auto", 0)]


@pytest.mark.parametrize(
    ("model", "choice", "says"),
    [
        ("nobody", StageChoice(), "nobody"),
        ("a.gguf", StageChoice(layers="16"), "0-16"),
        ("a.gguf", StageChoice(layers="9-3"), "0-16"),
        ("a.gguf", StageChoice(gpu_layers="some"), "--gpu-layers"),
    ],
)
async def test_what_makes_no_sense_is_said(ctx: ServiceContext, model: str, choice: StageChoice, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        stage_of(ctx, Settings(), model, choice)
