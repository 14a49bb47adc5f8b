"""The parts of a gate: what their readers are told, in whatever order the bus brings it."""

from dataclasses import dataclass, field

from twd.gate.calibration.parts import TARGET, Parts
from twd.wire.base import InstanceId, JobId, ModelId, SessionId
from twd.wire.failures import Failure
from twd.wire.job import JobFinished, JobQueued, JobStarted, JobSubmitted, Prompt, Sampling, TokensAccepted

WORKER = InstanceId("w")
JOB = JobSubmitted(
    job=JobId("j"), model=ModelId("m"), owner=InstanceId("gate"), prompt=Prompt(text="x"), sampling=Sampling(seed=1)
)
QUEUED = JobQueued(job=JOB.job, attempt=1, speculator=WORKER)
STARTED = JobStarted(job=JOB.job, attempt=1, session=SessionId("s"), model=ModelId("m"), prompt_tokens=5, source=WORKER)


@dataclass
class Heard:
    """A reader that counts starts."""

    starts: list[JobStarted] = field(default_factory=list)

    def started(self, number: int, event: JobStarted) -> None:
        self.starts.append(event)

    def text(self, number: int, event: TokensAccepted) -> None:
        raise AssertionError("nothing was written")

    def finished(self, number: int, event: JobFinished) -> None:
        raise AssertionError("nothing has finished")

    def failed(self, number: int, failure: Failure) -> None:
        raise AssertionError(failure)


def opened() -> tuple[Parts, Heard]:
    parts, heard = Parts(lambda: 0.0, lambda job, timeout_s: None, lambda event: None), Heard()
    parts.open(1, JOB, heard, TARGET)
    return parts, heard


def test_a_start_is_told_once() -> None:
    parts, heard = opened()
    parts.answered(QUEUED)
    parts.hear(STARTED)
    parts.hear(STARTED)
    assert heard.starts == [STARTED]


def test_a_start_that_overtakes_the_answer_is_told_too() -> None:
    parts, heard = opened()
    parts.hear(STARTED)
    assert heard.starts == [], "nobody has said yet that this worker has the job"
    parts.answered(QUEUED)
    assert heard.starts == [STARTED]
