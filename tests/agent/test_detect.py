"""How a machine is told from others."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from twd.agent import detect
from twd.settings.model import AgentConfig, EngineConfig, Settings
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import Build, GpuFacts


def test_processes_of_a_machine_without_network_card_find_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("5f0c-77aa\n")
    drawn = iter((0x0100_0000_0001, 0x0300_0000_0002, 0x02_42AC_1100, 0x02_42AC_1100))
    monkeypatch.setattr(uuid, "getnode", lambda: next(drawn))
    assert detect.machine_name(boot) == detect.machine_name(boot)
    assert detect.machine_name(boot).endswith("-000242ac1100")
    assert detect.machine_name(tmp_path / "none").endswith("-000242ac1100")


@pytest.mark.parametrize("alone", [False, True])
def test_who_plays_a_machine_of_its_own_tells_no_computer(alone: bool) -> None:
    settings = Settings(agent=AgentConfig(counts_alone=alone))
    facts = detect.MachineDetector(settings, NodeId("desk"), InstanceId("agent.desk.a"), 1).glance()
    assert facts.computer == ("" if alone else facts.machine)


@pytest.mark.parametrize("fails", [False, True])
async def test_the_memory_of_gpus_is_measured_once(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    async def engine_facts(
        notes: list[str], environment: Mapping[str, str], *, measure: bool = False
    ) -> tuple[Build | None, list[GpuFacts]]:
        asked.append(measure)
        if measure and fails:
            notes.append("the driver died")
            return None, []
        return Build(name="engine"), [GpuFacts(name="RTX", backend="cuda", bandwidth=900 if measure else 0)]

    async def vendor_gpus(notes: list[str]) -> list[GpuFacts]:
        return [GpuFacts(name="NVIDIA RTX", backend="cuda", total=7)]

    monkeypatch.setattr(detect, "engine_facts", engine_facts)
    monkeypatch.setattr(detect, "vendor_gpus", vendor_gpus)
    detector = detect.MachineDetector(Settings(), NodeId("desk"), InstanceId("agent.desk.a"), 1)
    first = await detector.look(0.0)
    later = await detector.look(detect.ENGINE_EVERY_S)
    assert asked == ([True, False, False] if fails else [True, False])
    assert [facts.gpus for facts in (first, later)] == [
        [GpuFacts(name="NVIDIA RTX", backend="cuda", total=7, bandwidth=0 if fails else 900)]
    ] * 2
    assert [("measured" in note) for note in first.notes] == ([True] if fails else [])
    assert later.notes == []


async def test_what_cannot_be_asked_for_once_is_as_it_was_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = iter((True, False, True, False))

    async def engine_facts(
        notes: list[str], environment: Mapping[str, str], *, measure: bool = False
    ) -> tuple[Build | None, list[GpuFacts]]:
        if measure or next(fails):
            notes.append("no answer within 30 s")
            return None, []
        return Build(name="engine"), [
            GpuFacts(name="Arc", backend="vulkan", free=5),
            GpuFacts(name="X", backend="cuda"),
        ]

    async def vendor_gpus(notes: list[str]) -> list[GpuFacts]:
        if look == 2:
            notes.append("nvidia-smi did not answer")
            return []
        return [GpuFacts(name="X", backend="cuda", total=7)]

    monkeypatch.setattr(detect, "engine_facts", engine_facts)
    monkeypatch.setattr(detect, "vendor_gpus", vendor_gpus)
    detector = detect.MachineDetector(Settings(), NodeId("desk"), InstanceId("agent.desk.a"), 1)
    looks = []
    for look in range(4):
        looks.append(await detector.look(look * detect.ENGINE_EVERY_S))
    assert [[(gpu.name, gpu.total, gpu.free) for gpu in facts.gpus] for facts in looks] == [
        [("X", 7, 0)],
        *[[("Arc", 0, 5), ("X", 7, 0)]] * 3,
    ]
    assert [bool(facts.builds and facts.builds[0].name == "engine") for facts in looks] == [False, True, True, True]
    assert [len(facts.notes) > 0 for facts in looks] == [True, False, True, False]


@pytest.mark.parametrize(
    ("backend", "hidden", "found"),
    [("auto", "", 1), ("vulkan", "CUDA_VISIBLE_DEVICES", 1), ("cpu", "CUDA_VISIBLE_DEVICES", 0)],
)
async def test_devices_that_the_settings_leave_out_are_not_there(
    backend: Literal["auto", "vulkan", "cpu"], hidden: str, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Mapping[str, str]] = []

    async def engine_facts(
        notes: list[str], environment: Mapping[str, str], *, measure: bool = False
    ) -> tuple[Build | None, list[GpuFacts]]:
        given.append(environment)
        return Build(name="engine"), []

    async def vendor_gpus(notes: list[str]) -> list[GpuFacts]:
        return [GpuFacts(name="NVIDIA RTX", backend="cuda", total=7)]

    monkeypatch.setattr(detect, "engine_facts", engine_facts)
    monkeypatch.setattr(detect, "vendor_gpus", vendor_gpus)
    settings = Settings(engine=EngineConfig(backend=backend))
    facts = await detect.MachineDetector(settings, NodeId("desk"), InstanceId("agent.desk.a"), 1).look(0.0)
    assert len(facts.gpus) == found
    assert [name for name in given[0] if name == hidden] == [hidden] * bool(hidden)
