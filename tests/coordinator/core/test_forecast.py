"""What holds a placement up, and what one more machine would bring."""

import msgspec
import pytest

from tests.coordinator.machines import DESK, GIB, machine, seeing, wanting
from twd.coordinator.core.forecast import bottleneck, most_tok_s, one_more, token_ms, way_ms
from twd.coordinator.core.model_placement import decide
from twd.coordinator.core.placement.values import MachineLink, ModelShape
from twd.settings.model import PoolConfig
from twd.wire.base import NodeId
from twd.wire.placement import PlacementDecided

SMALL = ModelShape("big", (GIB // 8,) * 16, GIB // 8, GIB // 8, 4096, 32_000, 4096, 8192)
RING = PoolConfig(engine="ring", trusted_lan=True)
EVEN = PoolConfig(engine="ring", trusted_lan=True, split="even")


def decided(pool: PoolConfig, *nodes: str, rtt_ms: float = 0.2, ram: float = 8) -> tuple[PlacementDecided, str]:
    wanted = wanting(pool, SMALL)
    observed = seeing(*(machine(name, ram) for name in nodes))
    observed.links = {name: MachineLink(rtt_ms / 1000) for name in nodes if name != DESK}
    decision = decide(wanted, observed, wanted.models[0])
    return decision, one_more(wanted, observed, wanted.models[0], decision)


def test_stages_tell_their_times_and_the_slowest_bounds_all_sessions() -> None:
    decision, _ = decided(EVEN, "desk", "box")
    times = [piece.ms for piece in decision.slices]
    assert sum(times) + way_ms(decision) == pytest.approx(token_ms(decision))
    assert most_tok_s(decision) == pytest.approx(1000 / max(times))
    told = bottleneck(decision)
    assert "computing and" in told
    assert "all sessions together make at most" in told


def test_a_slow_way_is_the_bottleneck() -> None:
    decision, _ = decided(EVEN, "desk", "box", rtt_ms=2000)
    assert "the bottleneck is the way" in bottleneck(decision)


def test_one_more_machine_helps_many_sessions() -> None:
    decision, line = decided(EVEN, "desk", "box")
    assert line.startswith("one more machine like ")
    assert "of all sessions; now" in line
    _, alone = decided(RING, "desk")
    assert "with `pool.split: even`" in alone
    assert most_tok_s(decision) > decided(RING, "desk")[0].plain_tok_s


def test_one_more_machine_lets_a_model_fit_that_does_not() -> None:
    decision, line = decided(RING, "desk", ram=2)
    assert decision.missing_bytes
    assert "the model would fit" in line
    assert bottleneck(decision) == ""


def test_over_rpc_a_machine_that_is_only_slower_brings_nothing() -> None:
    decision, line = decided(PoolConfig(engine="rpc", trusted_lan=True), "desk")
    assert "no gain" in line
    assert most_tok_s(decision) == decision.plain_tok_s
    assert one_more(wanting(), seeing(), wanting().models[0], decision) == ""
    far = msgspec.structs.replace(decision.slices[0], node=NodeId("box"))
    assert "box/CPU" in bottleneck(msgspec.structs.replace(decision, slices=[far]))
