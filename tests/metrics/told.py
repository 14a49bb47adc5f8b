"""Events as services tell them, for tests."""

from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import DrafterShare, FinishReason, JobFailed, JobFinished, JobStarted, JobStats, TokensAccepted
from twd.wire.leases.base import LeaseFacts
from twd.wire.service import Health, ServiceLease

NOTHING = LeaseFacts()
DRAFTER = "drafter.box.a1b2c3"
STATS = JobStats(
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=6,
    passes=3,
    checked=5,
    taken=3,
    checked_at=[3, 2],
    taken_at=[2, 1],
    drafters=[DrafterShare(drafter=DRAFTER, checked=4, taken=3), DrafterShare(drafter="ngram", checked=1)],
    queued_ms=20.0,
    prefill_ms=80.0,
    decode_ms=400.0,
)


def started(job: str = "j", attempt: int = 1, at_ms: int = 1000, model: str = "m") -> JobStarted:
    return JobStarted(
        job=JobId(job), attempt=attempt, session=SessionId(f"s-{job}"), model=ModelId(model), prompt_tokens=10,
        cached_tokens=4, at_ms=at_ms,
    )  # fmt: skip


def accepted(index: int, count: int, at_ms: int, job: str = "j", attempt: int = 1, text: str = "") -> TokensAccepted:
    return TokensAccepted(
        job=JobId(job), attempt=attempt, session=SessionId(f"s-{job}"), at=index, index=index,
        tokens=list(range(count)), at_ms=at_ms, text=text,
    )  # fmt: skip


def finished(job: str = "j", attempt: int = 1, stats: JobStats = STATS, at_ms: int = 2000) -> JobFinished:
    return JobFinished(job=JobId(job), attempt=attempt, reason=FinishReason.STOP, stats=stats, at_ms=at_ms)


def failed(code: FailureCode, job: str = "j", attempt: int = 1) -> JobFailed:
    return JobFailed(job=JobId(job), attempt=attempt, failure=Failure(code=code, message="so it is"))


def proposed(count: int) -> DraftProposed:
    return DraftProposed(session=SessionId("s"), drafter=InstanceId(DRAFTER), at=0, prefix=0, tokens=list(range(count)))


def lease(service: str, facts: LeaseFacts = NOTHING, health: Health = Health.OK, node: str = "box") -> ServiceLease:
    return ServiceLease(
        service=service, instance=InstanceId(f"{service}.{node}.x"), node=NodeId(node), pid=1, version="1",
        started_ms=1, renewed_ms=1, health=health, facts=facts,
    )  # fmt: skip


WHOLE_JOB: list[Event] = [started(), accepted(0, 2, 1100), accepted(2, 4, 1150), finished()]
