"""What a new version must pass before the old one ends."""

from typing import Any

import pytest

from twd.settings.model import BusConfig, ModelConfig, Settings
from twd.setup.versions.houses import up_arguments
from twd.setup.versions.trial import new_failures, no_room


def document(**results: str) -> dict[str, Any]:
    listed = [{"name": name, "status": status, "detail": f"{name} is wrong"} for name, status in results.items()]
    return {"passed": False, "sections": [{"title": "all", "results": listed}]}


def test_only_what_is_new_counts() -> None:
    old = document(port="fail", disk="warn", llama="pass")
    assert new_failures(old, document(port="fail", disk="warn", llama="pass")) == []
    assert new_failures(old, document(port="fail", disk="fail")) == ["disk: disk is wrong"]
    assert new_failures(old, {}) == []


@pytest.mark.parametrize(
    ("settings", "free", "reason"),
    [
        (Settings(), 10**12, "no model is served here"),
        (Settings(models={"a": ModelConfig(path="a")}), 10**12, ""),
        (Settings(models={"a": ModelConfig(path="a")}), 10**9, "the memory holds the models once"),
        (Settings(models={"a": ModelConfig(path="a")}, mode="combined"), 10**12, "its models are spread over machines"),
        (
            Settings(models={"a": ModelConfig(path="a")}, bus=BusConfig(url="nats://h:1")),
            10**12,
            "its models are spread over machines",
        ),
    ],
)
def test_memory_and_machines_may_leave_no_room_for_two(settings: Settings, free: int, reason: str) -> None:
    assert no_room(settings, 10**9, free) == reason


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (["/v/bin/python", "-P", "-m", "twd", "up", "--report", "--wait=some"], ("up", "--wait=some")),
        (
            ["python", "/opt/twd/current/bin/twd", "-c", "a b.yaml", "up", "-d", "agent"],
            ("-c", "a b.yaml", "up", "agent"),
        ),
        (["python", "-P", "-m", "twd", "up", "--report", "--demo"], ("up", "--demo")),
        (["something"], ("something",)),
    ],
)
def test_it_is_started_again_as_it_was(command: list[str], arguments: tuple[str, ...]) -> None:
    assert up_arguments(command) == arguments
