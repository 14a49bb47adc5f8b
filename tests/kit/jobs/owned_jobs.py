"""A job and what is said of it."""

from collections.abc import Iterable

from twd.kit.jobs.owner import Fail, JobOwner, OwnerAction, OwnerPolicy, Submit
from twd.wire.base import InstanceId, JobId, ModelId, SessionId
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    FinishReason,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStats,
    JobSubmitted,
    Prompt,
    Sampling,
    TokensAccepted,
)

JOB = JobId("j")
ONE, TWO = InstanceId("speculator.a.1"), InstanceId("speculator.b.2")
POLICY = OwnerPolicy()


def submitted(**changes: object) -> JobSubmitted:
    fields: dict[str, object] = {"sampling": Sampling(seed=7), "deadline_ms": 60_000, **changes}
    return JobSubmitted(
        job=JOB,
        model=ModelId("m"),
        owner=InstanceId("edge.a.1"),
        prompt=Prompt(text="hi"),
        **fields,  # type: ignore[arg-type]
    )


def queued(attempt: int = 1, speculator: InstanceId = ONE) -> JobQueued:
    return JobQueued(job=JOB, attempt=attempt, speculator=speculator, source=speculator)


def tokens(
    index: int, ids: list[int], *, attempt: int = 1, text: str | None = None, session: str = ""
) -> TokensAccepted:
    return TokensAccepted(
        job=JOB,
        attempt=attempt,
        session=SessionId(session or f"s{attempt}"),
        at=index + 3,
        index=index,
        tokens=ids,
        text="".join(f"<{i}>" for i in ids) if text is None else text,
        source=ONE,
    )


def finished(count: int, attempt: int = 1) -> JobFinished:
    stats = JobStats(completion_tokens=count)
    return JobFinished(
        job=JOB, attempt=attempt, reason=FinishReason.STOP, stats=stats, session=SessionId(f"s{attempt}")
    )


def failed(code: FailureCode, attempt: int = 1) -> JobFailed:
    return JobFailed(job=JOB, attempt=attempt, failure=Failure(code=code, message="as told"))


def owner(**changes: object) -> JobOwner:
    one = JobOwner(submitted(**changes), POLICY, now=0.0)
    assert [type(action) for action in one.begin(0.0)] == [Submit]
    return one


def running() -> JobOwner:
    one = owner()
    assert one.handle(queued(), 0.0) == []
    return one


def submission(actions: Iterable[OwnerAction]) -> JobSubmitted:
    [found] = [action.job for action in actions if isinstance(action, Submit)]
    return found


def failure(actions: Iterable[OwnerAction]) -> Failure:
    [found] = [action.failure for action in actions if isinstance(action, Fail)]
    return found
