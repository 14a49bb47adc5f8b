"""Who writes for a gate, which models judge, and which processes that takes."""

import msgspec
import pytest

from tests.gate.test_gate_service import ctx
from twd.backends.relay.service import RelayService
from twd.bus.memory.bus import MemoryBroker
from twd.gate.members import agent_names, members_of, targets_of
from twd.gate.service import Gate
from twd.kit.errors import CommandError
from twd.settings.model import Settings
from twd.supervisor.processes import wanted_processes
from twd.supervisor.service_catalog import ServiceChoice, made_by

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
        made_by("gate", alone, ServiceChoice()).make(ctx(MemoryBroker(), 1), alone, ServiceChoice())


async def test_they_are_made_from_the_settings() -> None:
    choice = ServiceChoice(model=next(iter(agent_names(SETTINGS))))
    relay = made_by("relay", SETTINGS, choice).make(ctx(MemoryBroker(), 1), SETTINGS, choice)
    assert isinstance(relay, RelayService)
    assert relay.model == "m@gate"
    assert isinstance(
        made_by("gate", SETTINGS, ServiceChoice()).make(ctx(MemoryBroker(), 2), SETTINGS, ServiceChoice()), Gate
    )
    unknown = ServiceChoice(model="x@gate")
    with pytest.raises(CommandError, match="no server"):
        made_by("relay", SETTINGS, unknown).make(ctx(MemoryBroker(), 3), SETTINGS, unknown)
