"""Room for a model: in memory, on devices, over a pool."""

import os
from pathlib import Path

import msgspec
import pytest

from tests.gguf_tools.test_inspect import write
from twd.cli.room import check_file, room_for
from twd.kit.settings import Backend, Model, Pool, Settings, Worker
from twd.wire.base import InstanceId, NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import Build, CpuFacts, GpuFacts, MemoryFacts, NodeFacts

DESK = NodeId("desk")
GIB = 1 << 30


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = str(write(tmp_path / "m.gguf"))
    return Settings(
        models={"m": Model(path=path), "cpu": Model(path=path, gpu_layers=0), "gone": Model(path="/no/such.gguf")},
        backends={"cloud": Backend(url="http://10.0.0.1:1")},
    )


def machine(free: int, *backends: str) -> NodeFacts:
    return NodeFacts(
        node=DESK,
        instance=InstanceId("agent.desk.x"),
        machine="m",
        pid=1,
        cpu=CpuFacts(cores=4, threads=4, bandwidth=10**10),
        memory=MemoryFacts(total=free, available=free),
        gpus=[GpuFacts(name="card", backend="cuda", total=9 * GIB, free=7 * GIB)],
        builds=[Build(name="engine", version="1", backends=["CPU", *backends])],
    )


def test_a_file_is_looked_at_before_anything_happens(settings: Settings) -> None:
    check_file(settings, "m")
    check_file(settings, "cloud")
    with pytest.raises(TwdError, match="no file") as gone:
        check_file(settings, "gone")
    assert gone.value.code is FailureCode.MODEL_NOT_FOUND


def test_memory_here_and_what_a_process_gives_back(settings: Settings) -> None:
    room = room_for(settings, "m", ["cpu"], [os.getpid(), 2**22 + 1], DESK, [])
    assert room.certain
    assert room.needed > 0
    assert room.free > 0
    assert room.freed > 1 << 20
    assert room_for(settings, "cloud", [], [], DESK, []).needed == 0


def test_a_card_counts_when_the_engine_can_use_it(settings: Settings) -> None:
    assert room_for(settings, "m", [], [], DESK, [machine(GIB, "CUDA")]).free == 7 * GIB
    assert room_for(settings, "m", [], [], DESK, [machine(GIB)]).certain
    assert room_for(settings, "cpu", [], [], DESK, [machine(GIB, "CUDA")]).certain


def test_workers_serve_one_after_the_other(settings: Settings) -> None:
    pool = Pool(engine="llama-server", workers=(Worker(host="10.0.0.2"),))
    room = room_for(msgspec.structs.replace(settings, pool=pool), "m", [], [], DESK, [])
    assert (room.free, room.certain) == (0, False)


def test_a_pool_that_is_too_small_says_by_how_much(settings: Settings) -> None:
    pooled = msgspec.structs.replace(settings, mode="combined", pool=Pool(engine="rpc", trusted_lan=True))
    with pytest.raises(TwdError, match="the pool") as refused:
        room_for(pooled, "m", [], [], DESK, [machine(1 << 12)])
    assert refused.value.code in (FailureCode.OUT_OF_MEMORY, FailureCode.MODEL_LOAD)
