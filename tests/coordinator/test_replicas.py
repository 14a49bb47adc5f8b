"""Several replicas of one model over one pool: each has workers of its own, or is told what is missing."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.coordinator.machines import DESK, GIB, RPC, SHAPE, machine, seeing
from tests.coordinator.test_churn import overfull, settle
from tests.engine.tiny_models import write_llama
from twd.agent.launch import check_process_name
from twd.coordinator.core.processes import WantedModel, belongs, process_of, word
from twd.coordinator.core.state import WantedState
from twd.coordinator.wanted import wanted_models
from twd.settings.model import ModelConfig, PoolConfig, Settings
from twd.wire.base import InstanceId
from twd.wire.node import CPU, ModelFile
from twd.wire.placement import placement_key

FILE = ModelFile(name="big", path="big.gguf", size_bytes=1, hash="b" * 32)


def wanting(engine: str = "rpc") -> WantedState:
    one = WantedModel("big", 512, 1, SHAPE, file=FILE, model="big")
    pool = RPC if engine == "rpc" else PoolConfig(engine="ring", trusted_lan=True)
    return WantedState(DESK, InstanceId("c"), pool, (one, replace(one, name="big#2", replica=2)))


@pytest.mark.parametrize("engine", ["rpc", "ring"])
def test_each_replica_has_processes_and_memory_of_its_own(engine: str) -> None:
    machines = (machine(name, 14) for name in ("desk", "attic", "cellar", "den", "shed"))
    nodes = [msgspec.structs.replace(one, models=[FILE]) for one in machines]
    observed = seeing(*nodes)
    settle(wanting(engine), observed, 0.0)
    first, second = observed.decided["big"], observed.decided["big#2"]
    assert (first.missing_bytes, second.missing_bytes) == (0, 0)
    assert (first.model, second.model, second.replica, second.place) == ("big", "big", 2, "big#2")
    mine = [{piece.process for piece in decision.slices if piece.process} for decision in (first, second)]
    assert mine[0]
    assert mine[1]
    assert not mine[0] & mine[1]
    assert list(overfull(observed)) == []
    running = {process.process for facts in observed.nodes.values() for process in facts.processes}
    assert running == mine[0] | mine[1]


def test_a_replica_without_room_says_what_is_missing_and_the_other_serves() -> None:
    observed = seeing(machine("desk", 30))
    settle(wanting(), observed, 0.0)
    assert observed.decided["big"].missing_bytes == 0
    refused = observed.decided["big#2"]
    assert refused.missing_bytes > 5 * GIB
    assert "of memory are missing" in refused.notes[0]


def test_settings_name_replicas_and_their_keys_differ(tmp_path: Path) -> None:
    path = str(write_llama(tmp_path / "tiny.gguf"))
    settings = Settings(
        mode="combined", models={"tiny": ModelConfig(path=path, replicas=2), "b": ModelConfig(path=path)}
    )
    models = wanted_models(settings)
    assert [(model.name, model.serves, model.replica) for model in models] == [
        *(("tiny", "tiny", 1), ("tiny#2", "tiny", 2), ("b", "b", 1))
    ]
    assert placement_key("tiny") != placement_key("tiny#2")


def test_long_names_stay_apart() -> None:
    name = "a-model-with-a-very-long-name-of-some-70B-instruct"
    assert word("qwen2.5") == "qwen2-5"
    assert word(name) != word(f"{name}#2")
    many = [f"CUDA{number}" for number in range(8)]
    for devices in (["CUDA0", "CUDA1"], [*many[:4], CPU], many, ["Vulkan0", "Vulkan1", "Vulkan2", CPU]):
        check_process_name(process_of(f"{name}#2", devices))
    assert process_of(name, many) != process_of(name, many[:-1])
    assert belongs(process_of("m#2"), "m#2")
    assert not belongs(process_of("m#2"), "m")
