"""Models that cannot be loaded at first: they come when they can, and each failure is told once."""

import random
from collections.abc import Callable

import pytest

from tests.sim.engines import MODEL, PlayedDraftModel, PlayedModel
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.drafter.service import DrafterService
from twd.kit import load_retry as tries
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import Service, ServiceContext
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.source import ReadySource
from twd.wire.base import Event, ModelId, NodeId
from twd.wire.codec import decode
from twd.wire.draft import DrafterAttached
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import ModelFailed, ModelReady
from twd.wire.service import Health

Progress = Callable[[float, str], None]


class Disk:
    """Where a file is missing at first."""

    def __init__(self) -> None:
        self.there = False
        self.looks = 0

    def read(self, progress: Progress) -> None:
        self.looks += 1
        progress(0.0, "reading weights")
        if not self.there:
            raise TwdError(FailureCode.MODEL_LOAD, f"m.gguf does not exist; {self.looks} GiB are free")
        progress(0.5, "reading weights")


def speculator(ctx: ServiceContext, disk: Disk) -> Service:
    def load(progress: Progress) -> PlayedModel:
        disk.read(progress)
        return PlayedModel()

    return SpeculatorService(ctx, MODEL, ReadySource(load))


def drafter(ctx: ServiceContext, disk: Disk) -> Service:
    def load(progress: Progress) -> PlayedDraftModel:
        disk.read(progress)
        return PlayedDraftModel(0.5)

    return DrafterService(ctx, ModelId("draft"), load)


@pytest.mark.parametrize(("make", "sign"), [(speculator, ModelReady), (drafter, DrafterAttached)])
async def test_what_cannot_be_loaded_comes_by_itself_when_the_cause_is_gone(
    make: Callable[[ServiceContext, Disk], Service], sign: type[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "FIRST_S", 0.0)
    broker, disk, told = MemoryBroker(), Disk(), list[object]()
    await broker.connect("watcher").subscribe("twd.v1.>", lambda message: told.append(decode(message.data)))
    ids = Ids(random.Random(1))
    service = make(ServiceContext(broker.connect("n"), NodeId("n"), SystemClock(), ids), disk)
    await service.start()
    await until(lambda: disk.looks > 5, "it is tried again and again")
    assert service.lease().health is Health.DEGRADED
    assert service.lease().note.startswith("m.gguf does not exist")
    assert sum(isinstance(event, ModelFailed) for event in told) == 1
    assert not any(isinstance(event, sign) for event in told)
    disk.there = True
    await until(lambda: any(isinstance(event, sign) for event in told), "it works")
    assert service.lease().health is Health.OK
    assert service.fault is None
    await service.stop()
