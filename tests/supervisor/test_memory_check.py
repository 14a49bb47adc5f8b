"""Room for a model: in memory, on devices, over a pool."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from tests.gguf_tools.test_inspect import write
from twd.coordinator.core.placement.values import MIB, RESERVE_BYTES
from twd.coordinator.core.state import ObservedState
from twd.settings.model import BackendConfig, GpuConfig, ModelConfig, PoolConfig, Settings, WorkerConfig
from twd.supervisor.memory_check import check_file, pool_manner, room_for
from twd.supervisor.model_changes import ReplacementOrder
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import Build, CpuFacts, GpuFacts, MemoryFacts, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided, Slice

DESK = NodeId("desk")
GIB = 1 << 30


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = str(write(tmp_path / "m.gguf"))
    return Settings(
        models={
            "m": ModelConfig(path=path),
            "cpu": ModelConfig(path=path, gpu_layers=0),
            "gone": ModelConfig(path="/no/such.gguf"),
        },
        backends={"cloud": BackendConfig(url="http://10.0.0.1:1")},
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
    nobodys = msgspec.structs.replace(settings, models={"m": ModelConfig(path="~nobody-of-this-name/m.gguf")})
    with pytest.raises(TwdError, match=r"no file ~nobody-of-this-name/m\.gguf on this machine"):
        check_file(nobodys, "m")


def test_memory_here_and_what_a_process_gives_back(settings: Settings) -> None:
    room = room_for(settings, "m", [os.getpid(), 2**22 + 1], DESK, [])
    assert room.certain
    assert room.needed > 0
    assert room.free > 0
    assert room.freed > 1 << 20
    assert room_for(settings, "cloud", [], DESK, []).needed == 0


def test_a_card_counts_when_the_engine_can_use_it(settings: Settings) -> None:
    assert room_for(settings, "m", [], DESK, [machine(GIB, "CUDA")]).free == 7 * GIB
    assert room_for(settings, "m", [], DESK, [machine(GIB)]).certain
    assert room_for(settings, "cpu", [], DESK, [machine(GIB, "CUDA")]).certain


def test_workers_serve_one_after_the_other(settings: Settings) -> None:
    pool = PoolConfig(engine="llama-server", workers=(WorkerConfig(host="10.0.0.2"),))
    room = room_for(msgspec.structs.replace(settings, pool=pool), "m", [], DESK, [])
    assert (room.free, room.certain) == (0, False)


def pooled(settings: Settings, split: tuple[float, ...] | Literal["auto"] = "auto") -> Settings:
    return msgspec.structs.replace(
        settings, mode="combined", pool=PoolConfig(engine="rpc", trusted_lan=True, split=split)
    )


def seen(free: int, *decided: PlacementDecided, ready: Collection[str] = ()) -> ObservedState:
    """One machine with so much free memory, what was decided, and the workers that are in memory there."""
    workers = [ProcessFacts(process=name, kind=ProcessKind.RPC, state="ready") for name in ready]
    memory = MemoryFacts(total=8 * GIB, available=free)
    facts = msgspec.structs.replace(machine(free), memory=memory, gpus=[], processes=workers)
    return ObservedState(nodes={DESK: facts}, decided={one.place: one for one in decided})


def standing(model: str, taken: int) -> PlacementDecided:
    piece = Slice(node=DESK, device="CPU", first=0, end=2, weight_bytes=taken, process=f"rpc.pool.{model}")
    return PlacementDecided(model=ModelId(model), coordinator=InstanceId("c"), slices=[piece], home=DESK)


def manner(
    settings: Settings, name: str, pool: ObservedState, served: Sequence[str] = (), goes: Sequence[str] = ()
) -> ReplacementOrder:
    return pool_manner(settings, name, served, goes, DESK, pool)


def test_a_model_comes_beside_others_where_the_pool_has_room(settings: Settings) -> None:
    assert manner(pooled(settings), "m", seen(4 * GIB)) is ReplacementOrder.BESIDE
    assert (
        manner(pooled(settings), "m", seen(4 * GIB, standing("cpu", GIB)), ["cpu"], ["cpu"]) is ReplacementOrder.BESIDE
    )


def test_it_comes_after_those_that_hold_what_it_needs(settings: Settings) -> None:
    full = seen(1 << 20, standing("cpu", GIB), ready=["rpc.pool.cpu"])
    assert manner(pooled(settings), "m", full, ["cpu"], ["cpu"]) is ReplacementOrder.AFTER
    promised = seen(GIB, standing("cpu", GIB))
    assert manner(pooled(settings), "m", promised, ["cpu"], ["cpu"]) is ReplacementOrder.AFTER
    assert manner(pooled(settings), "m", promised, ["cpu"]) is ReplacementOrder.AFTER, "it would fit alone"


def test_what_a_stopped_model_was_promised_is_free_again(settings: Settings) -> None:
    assert manner(pooled(settings), "m", seen(GIB, standing("cpu", GIB))) is ReplacementOrder.BESIDE
    assert manner(pooled(settings), "m", seen(GIB, standing("m", GIB))) is ReplacementOrder.BESIDE


def test_what_ends_gives_back_its_part_of_a_device_that_the_settings_name(settings: Settings) -> None:
    pool = PoolConfig(engine="rpc", trusted_lan=True, gpus=(GpuConfig(vram_gb=0.5),))
    named = msgspec.structs.replace(settings, mode="combined", pool=pool)
    piece = Slice(node=DESK, device="CUDA0", first=0, end=2, weight_bytes=300 * MIB)
    held = PlacementDecided(model=ModelId("cpu"), coordinator=InstanceId("c"), slices=[piece], home=DESK)
    card = GpuFacts(name="card", backend="cuda", total=512 * MIB, free=212 * MIB)
    built = [Build(name="engine", backends=["CUDA", "CPU"])]
    facts = msgspec.structs.replace(machine(2 * GIB), gpus=[card], builds=built)
    pool_now = ObservedState(nodes={DESK: facts}, decided={"cpu": held}, served={"cpu"})
    assert manner(named, "m", pool_now, ["cpu"], ["cpu"]) is ReplacementOrder.AFTER


def twice(settings: Settings) -> Settings:
    both = {name: msgspec.structs.replace(model, replicas=2) for name, model in settings.models.items()}
    return pooled(msgspec.structs.replace(settings, models=both))


def test_all_replicas_of_a_model_need_a_place(settings: Settings) -> None:
    one_fits, needed = RESERVE_BYTES + 20 * MIB, 20 * MIB
    assert manner(pooled(settings), "m", seen(one_fits)) is ReplacementOrder.BESIDE
    full = seen(one_fits, standing("cpu", needed), ready=["rpc.pool.cpu"])
    assert manner(pooled(settings), "m", full, ["cpu"], ["cpu"]) is ReplacementOrder.BESIDE
    assert manner(twice(settings), "m", full, ["cpu"], ["cpu"]) is ReplacementOrder.AFTER
    assert manner(twice(settings), "m", seen(one_fits + needed)) is ReplacementOrder.BESIDE
    with pytest.raises(TwdError, match=r"no place for m, replica 2 of 2; .* of memory are missing"):
        manner(twice(settings), "m", seen(one_fits))


def test_workers_of_llama_server_serve_one_model_of_a_pool_at_a_time(settings: Settings) -> None:
    pool = PoolConfig(engine="llama-server", workers=(WorkerConfig(host="10.0.0.2"),))
    turns = msgspec.structs.replace(settings, mode="combined", pool=pool)
    assert manner(turns, "m", seen(4 * GIB), ["cpu"], ["cpu"]) is ReplacementOrder.AFTER


def test_a_pool_that_is_too_small_says_by_how_much(settings: Settings) -> None:
    with pytest.raises(TwdError, match=r"no place for m; .* of memory are missing") as refused:
        manner(pooled(settings), "m", seen(1 << 12, standing("cpu", 1 << 12)), ["cpu"], ["cpu"])
    assert refused.value.code is FailureCode.OUT_OF_MEMORY


def test_a_pool_that_cannot_be_used_says_why_and_nothing_ends_for_it(settings: Settings) -> None:
    with pytest.raises(TwdError, match=r"pool\.split has 2 shares for 1 devices") as refused:
        manner(pooled(settings, split=(1.0, 1.0)), "m", seen(GIB, standing("cpu", GIB)), ["cpu"], ["cpu"])
    assert refused.value.code is FailureCode.MODEL_LOAD
    with pytest.raises(TwdError, match="the agent of desk is not on the bus"):
        manner(pooled(settings), "m", ObservedState(), ["cpu"], ["cpu"])
