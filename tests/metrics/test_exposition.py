"""The text that Prometheus reads, and the gauges in it."""

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tests.metrics.told import WHOLE_JOB, lease, started
from twd.metrics import families as f
from twd.metrics.counting import EventCounter
from twd.metrics.exposition import Exposition
from twd.metrics.families import FAMILIES, MetricKind
from twd.metrics.gauges import in_progress, refresh
from twd.wire.base import InstanceId, ModelId
from twd.wire.draft import DrafterPace
from twd.wire.leases.base import StreamedExperts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import StageFacts
from twd.wire.model import CostPoint
from twd.wire.service import Health

PACE = DrafterPace(
    drafter=InstanceId("drafter.box.1"), model="tiny", token_ms=5.0, lead_ms=1.0, agreement=0.75, compared=64
)
EXPERTS = StreamedExperts(asked=8, hits=6, read_bytes=1024, waited_s=0.5)
SPECULATOR = SpeculatorFacts(
    model=ModelId("m"),
    file="m.gguf",
    exact=True,
    sessions=2,
    parallel=4,
    waiting=3,
    kv_tokens=100,
    kv_tokens_max=8192,
    experts=EXPERTS,
    cost=[CostPoint(width=1, ms=12.5), CostPoint(width=8, ms=30.0)],
    drafters=[PACE],
)


def samples(counting: EventCounter) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = Exposition(counting.figures).text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_names_follow_the_convention() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) > 30
    for family in FAMILIES:
        assert family.name.startswith("twd_")
        assert family.name.endswith("_total") == (family.kind is MetricKind.COUNTER)
        assert family.about.endswith(".")
        assert list(family.buckets) == sorted(set(family.buckets))
        assert bool(family.buckets) == (family.kind is MetricKind.HISTOGRAM)
        assert family.name.endswith("_seconds") or not family.buckets


def test_prometheus_reads_it() -> None:
    counting = EventCounter()
    for event in WHOLE_JOB:
        counting.hear(event, 0.0)
    counting.hear(started("hostile", model='a"b\\c{}=,é'), 0.0)
    told = samples(counting)
    assert told[key("twd_tokens_generated_total", model="m")] == 6
    assert told[key("twd_time_to_first_token_seconds_bucket", model="m", le="0.05")] == 0
    assert told[key("twd_time_to_first_token_seconds_bucket", model="m", le="0.1")] == 1
    assert told[key("twd_time_to_first_token_seconds_bucket", model="m", le="+Inf")] == 1
    assert told[key("twd_time_to_first_token_seconds_count", model="m")] == 1
    assert told[key("twd_time_to_first_token_seconds_sum", model="m")] == 0.1
    assert told[key("twd_prompt_tokens_total", model='a"b\\c{}=,é')] == 10


def test_every_metric_is_named_before_anything_happens() -> None:
    text = Exposition(EventCounter().figures).text()
    assert all(f"# TYPE {family.name} {family.kind}" in text for family in FAMILIES)


def test_gauges_are_the_latest_word_of_the_leases() -> None:
    counting = EventCounter()
    leases = [
        lease("speculator", SPECULATOR),
        lease("speculator", msgspec.structs.replace(SPECULATOR, exact=False), node="other"),
        lease("speculator", SpeculatorFacts(model=ModelId("loading"), ready=False), Health.STARTING),
        lease("edge", health=Health.DEGRADED),
        lease("stage", StageFacts(model=ModelId("m"), experts=StreamedExperts(asked=100, hits=50))),
    ]
    refresh(counting, leases, "1.2.3")
    told = samples(counting)
    assert told[key("twd_sessions", model="m")] == 4
    assert told[key("twd_queue_jobs", model="m")] == 6
    assert told[key("twd_kv_tokens", model="m")] == 200
    assert told[key("twd_moe_experts_wanted", model="m")] == 116
    assert told[key("twd_moe_experts_hit", model="m")] == 62
    assert told[key("twd_moe_read_bytes", model="m")] == 2048
    assert told[key("twd_moe_waited_seconds", model="m")] == 1.0
    assert told[key("twd_model_exact", model="m")] == 0
    assert told[key("twd_single_step_seconds", model="m")] == 0.0125
    assert told[key("twd_drafter_token_seconds", model="m", drafter="tiny@box")] == 0.005
    assert told[key("twd_drafter_agreement_ratio", model="m", drafter="tiny@box")] == 0.75
    assert told[key("twd_leases", service="speculator", state="ready")] == 2
    assert told[key("twd_leases", service="speculator", state="loading")] == 1
    assert told[key("twd_leases", service="edge", state="degraded")] == 1
    assert told[key("twd_build_info", version="1.2.3")] == 1
    refresh(counting, [], "1.2.3")
    assert key("twd_sessions", model="loading") not in told
    assert key("twd_sessions", model="m") not in samples(counting)


def test_jobs_in_progress() -> None:
    counting = EventCounter()
    for job in "ab":
        counting.hear(started(job), 0.0)
    assert in_progress(counting) == {("m",): 2}
    assert f.IN_PROGRESS.kind is MetricKind.GAUGE
