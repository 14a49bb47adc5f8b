"""What is news, who may look after a machine, how many requests are too many."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from twd.agent.core import RateLimiter, TokenBucket, is_news, merge_gpus, refusal
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import GpuFacts, MemoryFacts, NodeFacts, node_key, read_node

GIB = 1024**3


def node(**changed: object) -> NodeFacts:
    facts = NodeFacts(
        node=NodeId("desk"),
        instance=InstanceId("agent.desk.a"),
        machine="m1",
        pid=10,
        memory=MemoryFacts(total=32 * GIB, available=20 * GIB),
        gpus=[GpuFacts(name="g", backend="cuda", total=24 * GIB, free=20 * GIB)],
    )
    return msgspec.structs.replace(facts, **changed)


def test_the_first_look_is_news_and_jitter_is_none() -> None:
    assert is_news(None, node())
    assert not is_news(node(), node())
    assert not is_news(node(), node(memory=MemoryFacts(total=32 * GIB, available=19 * GIB)))
    assert is_news(node(), node(memory=MemoryFacts(total=32 * GIB, available=8 * GIB)))


def test_a_device_that_fills_or_goes_is_news() -> None:
    full = [GpuFacts(name="g", backend="cuda", total=24 * GIB, free=2 * GIB)]
    assert is_news(node(), node(gpus=full))
    assert is_news(node(), node(gpus=[]))
    assert is_news(node(), node(notes=["nvidia-smi did not answer"]))


def test_a_name_on_two_machines_is_refused_with_the_fix() -> None:
    other = node(instance=InstanceId("agent.desk.b"), machine="m2", hostname="attic", platform="linux-x86_64")
    told = refusal(other, node(), holder_lives=False)
    assert "another machine (attic, linux-x86_64)" in told
    assert "TWD_NODE" in told


def test_on_one_machine_a_living_agent_stays_and_a_dead_one_is_replaced() -> None:
    other = node(instance=InstanceId("agent.desk.b"), pid=11)
    assert "pid 11" in refusal(other, node(), holder_lives=True)
    assert refusal(other, node(), holder_lives=False) == ""
    assert refusal(node(instance=InstanceId("agent.desk.b")), node(), holder_lives=True) == "", "a pid of ours is free"
    assert refusal(None, node(), holder_lives=False) == ""


def test_each_device_is_listed_once() -> None:
    nvidia = GpuFacts(name="NVIDIA GeForce RTX 3090", backend="cuda", total=24 * GIB)
    seen = [
        GpuFacts(name="NVIDIA GeForce RTX 3090", backend="cuda", bandwidth=800, place="0000:01:00.0"),
        GpuFacts(name="GeForce RTX 3090", backend="vulkan"),
        GpuFacts(name="Intel(R) Arc A770", backend="vulkan"),
    ]
    both = msgspec.structs.replace(nvidia, bandwidth=800, place="0000:01:00.0")
    assert merge_gpus([nvidia], seen) == [both, seen[2]]
    assert merge_gpus([], seen) == seen


def test_a_device_has_the_number_that_the_engine_gives_it() -> None:
    slow, quick = (GpuFacts(name=name, backend="cuda", index=at) for at, name in enumerate(("GTX 1060", "RTX 3090")))
    seen = [
        GpuFacts(name="NVIDIA RTX 3090", backend="cuda", index=0),
        GpuFacts(name="GTX 1060", backend="cuda", index=1),
    ]
    told = [msgspec.structs.replace(gpu, free=at + 1, driver="550") for at, gpu in enumerate((slow, quick))]
    merged = merge_gpus(told, seen)
    assert [(gpu.name, gpu.index, gpu.free) for gpu in merged] == [("RTX 3090", 0, 2), ("GTX 1060", 1, 1)]
    hidden = merge_gpus(told, seen[:1])
    assert [(gpu.name, gpu.index) for gpu in hidden] == [("RTX 3090", 0)], "what it may not see is not there"
    twins = [msgspec.structs.replace(quick, index=at, free=at + 1) for at in range(2)]
    alike = merge_gpus(twins, [msgspec.structs.replace(quick, index=at) for at in range(2)])
    assert [(gpu.index, gpu.free) for gpu in alike] == [(0, 1), (1, 2)]
    second = msgspec.structs.replace(quick, index=0, free=2)
    assert merge_gpus(twins, [second]) == [second], "of twins only the engine knows which one it may see"


def test_makers_that_call_a_device_otherwise_are_believed_by_its_place() -> None:
    told = [GpuFacts(name="Navi 31 [RX 7900 XTX]", backend="hip", free=20 * GIB, driver="6.1")]
    seen = [GpuFacts(name="AMD Radeon RX 7900 XTX", backend="hip", free=1, bandwidth=9)]
    assert merge_gpus(told, seen) == [msgspec.structs.replace(told[0], bandwidth=9)]


def test_of_a_chip_in_the_machines_memory_the_engine_knows_how_much_it_may_use() -> None:
    told = [GpuFacts(name="AMD Radeon 780M", backend="hip", total=GIB // 2, free=GIB // 4, driver="6.1")]
    seen = [GpuFacts(name="AMD Radeon 780M", backend="hip", total=16 * GIB, free=12 * GIB, shared=True)]
    assert merge_gpus(told, seen) == [msgspec.structs.replace(seen[0], driver="6.1")]


def test_what_the_engine_was_not_built_for_is_listed_and_counts_once() -> None:
    card = GpuFacts(name="NVIDIA RTX 3090", backend="cuda", driver="550")
    assert merge_gpus([card], []) == [card]
    vulkan = GpuFacts(name="NVIDIA RTX 3090", backend="vulkan")
    assert merge_gpus([card], [vulkan]) == [vulkan]


@given(st.binary(max_size=200))
def test_nothing_in_the_registry_confuses_a_reader(value: bytes) -> None:
    assert read_node(value, node_key(node().node)) is None
    assert read_node(msgspec.json.encode(node()), node_key(node().node)) == node()
    assert read_node(msgspec.json.encode(node()), node_key("other")) is None


@given(st.lists(st.floats(0, 2), max_size=100))
def test_in_the_long_run_no_more_than_allowed(pauses: list[float]) -> None:
    bucket, now, passed = TokenBucket(per_s=2, burst=5), 0.0, 0
    for pause in pauses:
        now += pause
        passed += bucket.wait_s(now) == 0
    assert passed <= 5 + 2 * now + 1e-6


def test_addresses_have_buckets_of_their_own_and_the_oldest_is_forgotten() -> None:
    limiter = RateLimiter(per_s=1, burst=1, known_max=2)
    assert limiter.wait_s("a", 0) == 0
    assert limiter.wait_s("a", 0) == 1
    assert limiter.wait_s("b", 0) == 0
    assert limiter.wait_s("c", 0) == 0
    assert len(limiter.buckets) == 2
