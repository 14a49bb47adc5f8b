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
