"""A native model's settings before anything is loaded."""

from pathlib import Path

import pytest

from tests.backends.conftest import until
from tests.backends.listener import Listener, ground
from twd.bus.memory_bus import MemoryBroker
from twd.kit.settings import Model, Settings
from twd.speculator.native import native_speculator
from twd.wire.failures import FailureCode
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
    model = Model(path=str(tmp_path / "m.gguf"), chat_template=str(template))
    speculator = native_speculator(ground(broker), Settings(models={"m": model}, home=str(tmp_path)), "m")
    await speculator.start()
    await until(lambda: bool(ear.of(ModelFailed)) or speculator.ended.is_set())
    await speculator.stop()
    assert speculator.fault is None
    (failed,) = ear.of(ModelFailed)
    assert (failed.failure.code, failed.failure.field) == (FailureCode.MODEL_LOAD, "chat_template")
    assert f"{template} cannot be read: {reason}" in failed.failure.message
