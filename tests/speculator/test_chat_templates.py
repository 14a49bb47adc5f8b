"""A chat template that the settings name and nobody can read is told, whatever the model lies on."""

from pathlib import Path
from typing import cast

import pytest

from tests.backends.listener import Listener, ctx
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.ring.driver import RingDriver
from twd.settings.model import ModelConfig, Settings
from twd.speculator.targets.native import native_speculator
from twd.speculator.targets.ring_model import load_ring
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import ModelFailed


@pytest.mark.parametrize(
    ("written", "reason"),
    [(None, "No such file or directory"), (b"{{ \xff }}", "it is no UTF-8")],
    ids=["none", "bytes"],
)
async def test_a_chat_template_that_cannot_be_read_is_told(tmp_path: Path, written: bytes | None, reason: str) -> None:
    template = tmp_path / "chat.jinja"
    if written is not None:
        template.write_bytes(written)
    broker = MemoryBroker()
    ear = Listener(broker)
    await ear.listen()
    model = ModelConfig(path=str(tmp_path / "m.gguf"), chat_template=str(template))
    speculator = native_speculator(ctx(broker), Settings(models={"m": model}, home=str(tmp_path)), "m")
    await speculator.start()
    await until(lambda: bool(ear.of(ModelFailed)) or speculator.ended.is_set())
    await speculator.stop()
    assert speculator.fault is None
    (failed,) = ear.of(ModelFailed)
    assert (failed.failure.code, failed.failure.field) == (FailureCode.MODEL_LOAD, "chat_template")
    assert f"{template} cannot be read: {reason}" in failed.failure.message


def test_a_ring_tells_of_its_chat_template_too(tmp_path: Path) -> None:
    entry = ModelConfig(path=str(tmp_path / "m.gguf"), chat_template=str(tmp_path / "none.jinja"))
    with pytest.raises(TwdError, match=r"none\.jinja cannot be read: No such file or directory"):
        load_ring(
            ModelId("m"),
            Settings(models={"m": entry}),
            cast(RingDriver, None),
            [],
            lambda: 1,
            lambda share, stage: None,
        )
