"""A device of any backend is planned under llama.cpp's own name, and as quick as models were on it."""

import json

import msgspec
import pytest

from tests.coordinator.machines import machine
from twd.agent.core import merge_gpus, with_steps
from twd.agent.probes.gpu import parse_engine
from twd.coordinator.core.machines.device_names import can_compute, device_name, usable
from twd.coordinator.core.machines.devices import find_devices
from twd.coordinator.core.pass_time import Reading, seconds
from twd.settings.model import PoolConfig
from twd.wire.base import NodeId
from twd.wire.node import GpuFacts, MeasuredStep, NodeFacts, WeightShare

GB = 10**9
NAMES = ("CUDA0", "ROCm1", "MTL0", "Vulkan2", "GPUOpenCL", "SYCL0", "MUSA3", "CANN0", "HTP0")


def seen(name: str) -> GpuFacts:
    device = {"name": name, "description": "A card", "kind": "gpu", "total": 9 * GB, "free": 8 * GB}
    told = {"version": "1", "path": "/p", "rpc": "", "devices": [device]}
    (gpu,) = parse_engine(json.dumps(told))[1]
    return gpu


def with_card(gpu: GpuFacts) -> NodeFacts:
    facts = machine("desk", 64)
    builds = [msgspec.structs.replace(build, backends=["CPU"]) for build in facts.builds]
    return msgspec.structs.replace(facts, gpus=[gpu], builds=builds)


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_calls_a_device_what_llama_cpp_calls_it(name: str) -> None:
    gpu = seen(name)
    facts = with_card(gpu)
    assert device_name(gpu) == name
    assert can_compute(msgspec.structs.replace(facts, builds=[]), gpu)
    (own,) = merge_gpus([], [gpu])
    assert device_name(own) == name


def test_what_a_vendors_tool_tells_keeps_the_name() -> None:
    own = msgspec.structs.replace(seen("CUDA0"), index=0)
    told = GpuFacts(name="A card", backend="cuda", index=4, total=9 * GB, free=7 * GB)
    (both,) = merge_gpus([told], [own])
    assert (device_name(both), both.free) == ("CUDA0", 7 * GB)


@pytest.mark.parametrize("name", ["GPUOpenCL", "CUDA0"])
def test_a_card_is_as_quick_as_its_models_were(name: str) -> None:
    reading = Reading(32, 7 * GB, (("Q8_0", 1.0),))
    kinds = [WeightShare(kind="Q8_0", share=1.0)]
    step = MeasuredStep(layers=32, weight_bytes=7 * GB, kinds=kinds, ms=50.0, window=1.7, device=name)
    other = msgspec.structs.replace(step, ms=900.0, device="Vulkan7")
    facts = with_card(with_steps([seen(name)], [step, other])[0])
    facts = msgspec.structs.replace(facts, builds=[])
    assert [one.device for one in usable(facts)[0].measured] == [name]
    found = find_devices([facts], PoolConfig(), NodeId("desk")).devices
    card = next(device for device in found if device.name == name)
    assert seconds(reading, card.pace) == pytest.approx(0.05)
    assert card.window_factor == 1.7
