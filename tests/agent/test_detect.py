"""How a machine is told from others."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from twd.agent import detect
from twd.kit.settings import Engine, Settings
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
    detector = detect.Detector(Settings(), NodeId("desk"), InstanceId("agent.desk.a"), 1)
    first = await detector.look(0.0)
    later = await detector.look(detect.ENGINE_EVERY_S)
    assert asked == ([True, False, False] if fails else [True, False])
    assert [facts.gpus for facts in (first, later)] == [
        [GpuFacts(name="NVIDIA RTX", backend="cuda", total=7, bandwidth=0 if fails else 900)]
    ] * 2
    assert [("measured" in note) for note in first.notes] == ([True] if fails else [])
    assert later.notes == []


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
    settings = Settings(engine=Engine(backend=backend))
    facts = await detect.Detector(settings, NodeId("desk"), InstanceId("agent.desk.a"), 1).look(0.0)
    assert len(facts.gpus) == found
    assert [name for name in given[0] if name == hidden] == [hidden] * bool(hidden)
