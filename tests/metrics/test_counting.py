"""From events to figures: what is counted, what is not counted twice, and names that strangers make up."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics.told import DRAFTER, STATS, WHOLE_JOB, accepted, failed, finished, proposed, started
from twd.metrics import families as f
from twd.metrics.counting import DRAFTERS_KEPT, NAMES_MAX, EventCounter, position
from twd.metrics.families import OTHER, LabelValues, MetricFamily
from twd.metrics.lives import GRACE_S, OPEN_MAX, SILENT_S
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId
from twd.wire.draft import DrafterAttached
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import CALIBRATION, JobCancelled, JobStats
from twd.wire.model import ModelFailed, VocabFingerprint
from twd.wire.ring import FrameFault, FrameRefused, HopFacts, RingMeasured
from twd.wire.service import MessageDropped, MessageRejected, ServiceExited, ServiceFaulted, ServiceStarted
from twd.wire.swarm import PeerBanned, PullFailed, PullFinished, PullProgressed


def heard(*events: Event, now: float = 0.0) -> EventCounter:
    counting = EventCounter(["m"])
    for event in events:
        counting.hear(event, now)
    return counting


def counts(counting: EventCounter, family: MetricFamily) -> dict[tuple[str, ...], float]:
    return counting.figures.values.get(family, {})


def seconds(counting: EventCounter, family: MetricFamily) -> tuple[int, float]:
    spread = counting.figures.spreads[family]["m",]
    return sum(spread.counts), round(spread.total, 6)


def test_a_whole_job() -> None:
    counting = heard(*WHOLE_JOB)
    value = counting.figures.value
    assert counts(counting, f.JOBS) == {("m", "finished", "stop"): 1}
    assert (value(f.TOKENS, "m"), value(f.PROMPT_TOKENS, "m"), value(f.CACHED_TOKENS, "m")) == (6, 10, 4)
    assert (value(f.PASSES, "m"), value(f.DECODED_TOKENS, "m"), value(f.DECODE_SECONDS, "m")) == (3, 6, 0.4)
    assert counts(counting, f.CHECKED) == {("m", "drafter@box"): 4, ("m", "ngram"): 1}
    assert counts(counting, f.ACCEPTED) == {("m", "drafter@box"): 3}
    assert counts(counting, f.CHECKED_AT) == {("m", "1"): 3, ("m", "2"): 2}
    assert counts(counting, f.ACCEPTED_AT) == {("m", "1"): 2, ("m", "2"): 1}
    assert seconds(counting, f.QUEUE_WAIT) == (1, 0.02)
    assert seconds(counting, f.FIRST_TOKEN) == (1, 0.1)
    assert seconds(counting, f.TOKEN_GAP) == (1, 0.05)
    assert seconds(counting, f.DURATION) == (1, 0.5)
    assert not counting.lives.open


def test_what_comes_twice_counts_once() -> None:
    assert heard(*[event for event in WHOLE_JOB for _ in range(2)]).figures == heard(*WHOLE_JOB).figures
    assert heard(*WHOLE_JOB, *WHOLE_JOB).figures == heard(*WHOLE_JOB).figures


def test_a_job_that_goes_on_elsewhere_is_one_job() -> None:
    rest = JobStats(prompt_tokens=10, completion_tokens=6, passes=2, decode_ms=100.0)
    counting = heard(
        started(), accepted(0, 2, 1100), failed(FailureCode.WORKER_LOST), started(attempt=2, at_ms=1500),
        accepted(0, 2, 1550, attempt=1), accepted(2, 4, 1700, attempt=2), finished(attempt=1),
        finished(attempt=2, stats=rest),
    )  # fmt: skip
    counting.sweep(GRACE_S * 2)
    assert counts(counting, f.JOBS) == {("m", "finished", "stop"): 1}
    assert counting.figures.value(f.TAKEOVERS, "m") == 1
    assert counting.figures.value(f.TOKENS, "m") == 6
    assert counting.figures.value(f.DECODED_TOKENS, "m") == 4
    assert seconds(counting, f.DURATION) == (1, 1.0)
    assert seconds(counting, f.TOKEN_GAP) == (1, 0.6)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(FailureCode.CONTEXT_OVERFLOW, "failed"), (FailureCode.CANCELLED, "cancelled"), (FailureCode.DEADLINE, "failed")],
)
def test_failures_by_code(code: FailureCode, outcome: str) -> None:
    assert counts(heard(started(), failed(code)), f.JOBS) == {("m", outcome, code.value): 1}


def test_a_lost_job_fails_when_nobody_goes_on() -> None:
    counting = heard(started(), failed(FailureCode.WORKER_LOST))
    counting.sweep(GRACE_S - 1)
    assert counts(counting, f.JOBS) == {}
    counting.sweep(GRACE_S + 1)
    assert counts(counting, f.JOBS) == {("m", "failed", "worker_lost"): 1}


def test_a_job_that_falls_silent_is_over_some_time() -> None:
    counting = heard(started())
    counting.sweep(SILENT_S + 1)
    assert counts(counting, f.JOBS) == {("m", "failed", "worker_lost"): 1}


def test_a_cancelled_job_whose_worker_is_silent() -> None:
    counting = heard(started(), JobCancelled(job=JobId("j")))
    counting.sweep(GRACE_S + 1)
    assert counts(counting, f.JOBS) == {("m", "cancelled", "cancelled"): 1}
    released = heard(started(), JobCancelled(job=JobId("j"), attempts=1))
    released.sweep(GRACE_S + 1)
    assert counts(released, f.JOBS) == {}


def test_an_end_without_a_beginning_counts() -> None:
    counting = heard(finished())
    assert counts(counting, f.JOBS) == {("unknown", "finished", "stop"): 1}
    assert counting.figures.value(f.TOKENS, "unknown") == 6


def test_pieces_without_tokens_are_counted_in_the_end() -> None:
    pieces = [accepted(0, 0, 1100, text="a"), accepted(1, 0, 1200, text="b"), accepted(1, 0, 1200, text="b")]
    counting = heard(started(), *pieces, finished())
    assert counting.figures.value(f.TOKENS, "m") == 6
    assert seconds(counting, f.TOKEN_GAP) == (1, 0.1)


def test_jobs_that_measure_drafters_are_nobodys() -> None:
    name = f"{CALIBRATION}1"
    counting = heard(started(name), accepted(0, 2, 1100, job=name), finished(name))
    assert counting.figures.values == {}


def test_drafters_go_by_model_and_machine() -> None:
    attached = DrafterAttached(
        drafter=InstanceId(DRAFTER),
        node=NodeId("box"),
        model=ModelId("tiny"),
        vocab=VocabFingerprint(hash="h", tokens=1),
    )
    counting = heard(proposed(3), attached, proposed(4))
    assert counts(counting, f.PROPOSED) == {("drafter@box",): 3, ("tiny@box",): 4}


def test_the_house() -> None:
    failure = Failure(code=FailureCode.INTERNAL, message="x")
    node, edge = NodeId("n"), "edge"
    gone = ServiceExited(service="speculator.m", node=node, pid=1, exit_code=1, restarts=0, retry_in_ms=500)
    counting = heard(
        ServiceStarted(service=edge, node=node, pid=1, version="1"),
        ServiceFaulted(service=edge, node=node, failure=failure),
        gone,
        ServiceExited(service=edge, node=node, pid=1, exit_code=0, restarts=0),
        ModelFailed(model=ModelId("m"), node=node, failure=failure),
        MessageDropped(subject="twd.v1.draft.proposed.s-1", count=7),
        MessageDropped(subject="other", count=2),
    )
    assert counts(counting, f.STARTS) == {("edge",): 1}
    assert counts(counting, f.FAULTS) == {("edge", "internal"): 1}
    assert counts(counting, f.EXITS) == {("speculator.m",): 1, ("edge",): 1}
    assert counts(counting, f.RESTARTS) == {("speculator.m",): 1}
    assert counts(counting, f.MODEL_FAILURES) == {("m", "internal"): 1}
    assert counts(counting, f.DROPPED) == {("draft.proposed",): 7, (OTHER,): 2}


def test_rejections_are_told_at_every_power_of_two() -> None:
    told = [MessageRejected(subject="twd.v1.job.started.x", reason="r", repeated=2**n) for n in range(6)]
    assert counts(heard(*told), f.REJECTED) == {("job.started",): 32}


def test_strangers_cannot_make_series_without_end() -> None:
    counting = EventCounter(["m"])
    for number in range(DRAFTERS_KEPT + 200):
        name = f"m-{number}\n\x1b{'x' * 500}"
        counting.hear(started(f"j-{number}", model=name), 0.0)
        share = STATS.drafters[0].__class__(drafter=f"d-{number}"[:200], checked=1, taken=1)
        counting.hear(finished(f"j-{number}", stats=JobStats(completion_tokens=1, drafters=[share])), 0.0)
        counting.hear(MessageRejected(subject=f"s-{number}", reason="r"), 0.0)
        counting.hear(ServiceStarted(service=f"s-{number}", node=NodeId("n"), pid=1, version="1"), 0.0)
        counting.meet(f"d-{number}", f"model-{number}")
    figures = counting.figures
    assert all(len(series) <= (NAMES_MAX + 1) * 4 for series in figures.values.values())
    assert all(len(series) <= NAMES_MAX + 1 for series in figures.spreads.values())
    assert counts(counting, f.TOKENS)[OTHER,] > 1000
    assert len(counting._drafters) <= DRAFTERS_KEPT
    counting.hear(started("mine", model="m"), 0.0)
    assert counting.lives.open[JobId("mine")].model == "m"


def test_jobs_that_never_end_are_bounded() -> None:
    counting = EventCounter()
    for number in range(OPEN_MAX + 10):
        counting.hear(started(f"j-{number}"), 0.0)
    assert len(counting.lives.open) == OPEN_MAX


def test_places_far_out_are_one() -> None:
    assert [position(place) for place in (0, 15, 16, 95)] == ["1", "16", "17+", "17+"]


def test_names_that_do_not_print() -> None:
    names = LabelValues(3, ["known"])
    assert names.of("a\nb\x00") == "ab"
    assert names.of("") == "unknown"
    assert (names.of("one more"), names.of("known"), names.of("ab")) == (OTHER, "known", "ab")


SCRIPT = st.lists(
    st.tuples(st.sampled_from(["start", "grow", "end", "fail", "lose"]), st.sampled_from("ab"), st.integers(1, 3)),
    max_size=40,
)


@given(SCRIPT)
def test_whatever_comes_a_job_ends_at_most_once(script: list[tuple[str, str, int]]) -> None:
    counting = EventCounter(["m"])
    make: dict[str, Callable[[str, int], Event]] = {
        "start": lambda job, n: started(job, n),
        "grow": lambda job, n: accepted(n, n, 1000 + n, job, n),
        "end": lambda job, n: finished(job, n),
        "fail": lambda job, n: failed(FailureCode.BAD_REQUEST, job, n),
        "lose": lambda job, n: failed(FailureCode.WORKER_LOST, job, n),
    }
    for kind, job, number in script:
        counting.hear(make[kind](job, number), 0.0)
    counting.sweep(SILENT_S * 2)
    assert sum(counts(counting, f.JOBS).values()) <= len({job for _, job, _ in script})
    assert not counting.lives.open


def measured(first: int, end: int, **figures: Any) -> RingMeasured:
    stage, node, model = InstanceId("stage.a.1"), NodeId("a"), ModelId("m")
    return RingMeasured(ring="r", stage=stage, node=node, model=model, index=0, first=first, end=end, **figures)


def test_rings_count_what_their_stages_computed() -> None:
    before = measured(0, 15, passes=4, rows=20, dropped=3, compute_ms=5.0)
    counting = heard(before, measured(15, 30, passes=4, rows=20, kept=10, compute_ms=2.5), before)
    assert counts(counting, f.RING_PASSES) == {("m", "0-15"): 8, ("m", "15-30"): 4}
    assert counts(counting, f.RING_ROWS) == {("m", "0-15"): 40, ("m", "15-30"): 20}
    assert counts(counting, f.RING_KEPT) == {("m",): 10}
    assert counts(counting, f.RING_DROPPED)["m", "0-15"] == 6
    assert counts(counting, f.RING_BUSY) == {("m", "0-15"): 0.04, ("m", "15-30"): 0.01}


def test_links_of_rings_count_what_they_sent_and_how_long_it_takes() -> None:
    def told(ring: str, sent: int, rtt_ms: float = 20.0) -> RingMeasured:
        hops = [HopFacts(to="next", rtt_ms=rtt_ms, sent_bytes=sent), HopFacts(to="made up", rtt_ms=1.0)]
        return msgspec.structs.replace(measured(0, 15, passes=2, queue_ms=5.0, hops=hops), ring=ring)

    counting = heard(told("r", 1_000_000), told("r", 1_000_500), told("another", 70))
    assert counts(counting, f.RING_BYTES) == {("m", "0-15", "next"): 570}
    assert counts(counting, f.RING_QUEUED) == {("m", "0-15"): 0.03}
    counting.sweep(0.0)
    assert counts(counting, f.RING_RTT) == {("m", "0-15", "next"): 0.02}
    counting.sweep(1000.0)
    assert counts(counting, f.RING_RTT) == {}


def test_refused_frames_are_counted_by_what_was_wrong_with_them() -> None:
    stage, node = InstanceId("stage.a.1"), NodeId("a")
    refused = [FrameRefused(stage=stage, node=node, fault=FrameFault.GARBAGE, repeated=n) for n in (1, 2, 4, 8)]
    assert counts(heard(*refused), f.FRAMES_REFUSED) == {("garbage",): 8}


def test_files_that_came_from_other_machines_are_counted() -> None:
    counting, node, root = EventCounter(), NodeId("shelf"), "a" * 64
    where: dict[str, Any] = {"node": node, "root": root, "file": "m.gguf"}
    counting.hear(PullFinished(**where, path="/m.gguf", total_bytes=10, fetched_bytes=12, wasted_bytes=2), 0.0)
    counting.hear(PullFailed(**where, failure=Failure(code=FailureCode.NO_SOURCE, message="gone")), 0.0)
    counting.hear(PeerBanned(**where, peer="http://liar", reason="wrong bytes"), 0.0)
    figures = counting.figures
    assert figures.value(f.PULLS, "shelf", "finished") == figures.value(f.PULLS, "shelf", "no_source") == 1
    assert (figures.value(f.PULLED_BYTES, "shelf"), figures.value(f.PULL_WASTE, "shelf")) == (12, 2)
    assert figures.value(f.PEERS_BANNED, "shelf") == 1
    counting.hear(PullProgressed(**where, done_bytes=3, total_bytes=10), 1.0)
    counting.hear(PullProgressed(**{**where, "root": "b" * 64}, done_bytes=0, total_bytes=5), 1.0)
    counting.sweep(1.0)
    assert figures.value(f.PULL_LEFT, "shelf") == 12
