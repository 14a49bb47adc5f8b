"""A coordinator without a model's file plans it by the header, which the swarm service of its machine fetches."""

from pathlib import Path

import msgspec
import pytest

from tests.coordinator.machines import machine
from tests.coordinator.test_coordinator_service import FakeAgent, ctx, over_a_pool
from tests.engine.tiny_models import write_llama
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.gguf_tools.model_file import read_model
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Reply, Service
from twd.wire.base import Event, InstanceId, NodeId
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import NodeFacts
from twd.wire.placement import PlacementDecided
from twd.wire.routes import ROUTE_OF
from twd.wire.service import ServiceLease
from twd.wire.swarm import PullAnswered, PullWanted

pytest_plugins = ("tests.coordinator.test_coordinator_service",)


class FakeSwarm(Service):
    """A swarm service that has fetched the headers already."""

    name = "swarm"
    reads = (PullWanted,)
    writes = (PullAnswered,)
    copy = Path()

    def pattern(self, event_type: type[Event]) -> str:
        return ROUTE_OF[event_type].pattern_for(node=self.ctx.node)

    def on_pull_wanted(self, event: PullWanted, reply: Reply) -> Effects:
        assert event.headers
        reply(PullAnswered(node=event.node, root="", file=event.file, path=str(self.copy), done=True))
        return None


async def served_by(broker: MemoryBroker, node: str, model: str) -> None:
    """A speculator of another machine serves the model."""
    instance = InstanceId(f"speculator.{node}.x")
    lease = ServiceLease("speculator", instance, NodeId(node), 1, "", 0, 0, facts=SpeculatorFacts(model=model))
    leases = await broker.connect(node).leases(LEASE_BUCKET, LEASE_TTL_S)
    await leases.put(instance, msgspec.json.encode(lease))


def with_file(path: Path) -> NodeFacts:
    return msgspec.structs.replace(machine("attic"), models=[read_model(path)])


@pytest.mark.parametrize("served", [True, False])
async def test_the_header_alone_is_enough_to_plan(
    broker: MemoryBroker,
    decisions: list[PlacementDecided],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    served: bool,
) -> None:
    monkeypatch.setattr("twd.coordinator.service.READ_AGAIN_S", 0.01)
    for folder in ("big", "there", "copy"):
        (tmp_path / folder).mkdir()
    there = write_llama(tmp_path / "there/tiny.gguf")
    attic = FakeAgent(ctx(broker, "attic", 12), with_file(there))
    swarm = FakeSwarm(ctx(broker, "desk", 13))
    swarm.copy = write_llama(tmp_path / "copy/tiny.gguf")
    for service in (attic, swarm):
        await service.start()
    if served:
        await served_by(broker, "attic", "big")
    coordinator = over_a_pool(ctx(broker, "desk", 1), tmp_path / "big/tiny.gguf")
    await coordinator.start()
    if served:
        await until(lambda: decisions and not decisions[-1].missing_bytes, "it has a place", 10)
        (wanted,) = coordinator._wanted.models
        assert wanted.file == read_model(there)
    else:
        await until(lambda: decisions, "nobody serves it, so the missing file is told")
        assert "the coordinator on desk cannot plan it" in decisions[-1].notes[0]
    for service in (coordinator, swarm, attic):
        await service.stop()
