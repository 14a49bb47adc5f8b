"""Who writes for a gate, which models judge, and which processes that takes."""

import msgspec
import pytest

from tests.gate.test_gate_service import ground
from twd.backends.relay import Relay
from twd.bus.memory_bus import MemoryBroker
from twd.cli.errors import CommandError
from twd.cli.services import Choice, made_by
from twd.cli.wanted import wanted_processes
from twd.gate.members import agent_names, members_of, targets_of
from twd.gate.service import Gate
from twd.kit.settings import Settings

SETTINGS = msgspec.convert(
    {
        "models": {"big": {"path": "x"}, "small": {"path": "x"}},
        "backends": {"far": {"url": "http://127.0.0.1:1"}},
        "gate": {
            "fleet": ["small", "far"],
            "agents": [{"url": "http://127.0.0.1:2", "model_name": "m"}, {"url": "http://127.0.0.1:3"}],
        },
        "consensus": {"policy": "strict"},
    },
    Settings,
)


def test_fleet_and_agents_write_and_the_others_judge() -> None:
    assert members_of(SETTINGS) == ["small", "far", "m@gate", "agent-2@gate"]
    assert targets_of(SETTINGS) == ["big"]


def test_each_server_has_a_relay_beside_the_gate() -> None:
    names = [spec.name for spec in wanted_processes(SETTINGS)]
    assert [name for name in names if "gate" in name or name == "racer"] == [
        "racer",
        "relay.m-gate",
        "relay.agent-2-gate",
        "gate",
    ]


def test_without_members_no_gate_runs() -> None:
    alone = msgspec.convert({"models": {"big": {"path": "x"}}}, Settings)
    assert all(spec.name not in ("gate", "racer") for spec in wanted_processes(alone))
    with pytest.raises(CommandError, match=r"gate\.fleet"):
        made_by("gate", alone, Choice()).make(ground(MemoryBroker(), 1), alone, Choice())


async def test_they_are_made_from_the_settings() -> None:
    choice = Choice(model=next(iter(agent_names(SETTINGS))))
    relay = made_by("relay", SETTINGS, choice).make(ground(MemoryBroker(), 1), SETTINGS, choice)
    assert isinstance(relay, Relay)
    assert relay.model == "m@gate"
    assert isinstance(made_by("gate", SETTINGS, Choice()).make(ground(MemoryBroker(), 2), SETTINGS, Choice()), Gate)
    unknown = Choice(model="x@gate")
    with pytest.raises(CommandError, match="no server"):
        made_by("relay", SETTINGS, unknown).make(ground(MemoryBroker(), 3), SETTINGS, unknown)
