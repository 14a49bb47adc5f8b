"""A target that was served lately is waited for; one that nobody serves is not."""

from twd.gate.calibration.parts import TARGET
from twd.gate.returning import LATELY_S, RETURNING, ServedTargets
from twd.kit.jobs.owner import Fail, JobOwner, OwnerPolicy
from twd.wire.base import InstanceId, JobId, ModelId
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import JobSubmitted, Prompt, Sampling

BIG = ModelId("big")
NOBODY = Failure(code=FailureCode.NOBODY_HOME, message="nobody serves big now")
JOB = JobSubmitted(
    job=JobId("j"), model=BIG, owner=InstanceId("gate"), prompt=Prompt(text="x"), sampling=Sampling(seed=1)
)


def failed_after(policy: OwnerPolicy, limit: float) -> float:
    """When a job that nobody takes is given up."""
    owner, now = JobOwner(JOB, policy, 0.0), 0.0
    owner.begin(now)
    while now < limit:
        if any(isinstance(action, Fail) for action in owner.unanswered(owner.attempt, NOBODY, now)):
            return now
        now = owner.due
        owner.tick(now)
    return limit


def test_a_target_that_was_served_lately_is_waited_for() -> None:
    served = ServedTargets()
    assert served.policy(BIG, 0.0) == TARGET
    served.see([BIG], 100.0)
    assert served.policy(BIG, 100.0 + LATELY_S) == RETURNING
    assert served.policy(ModelId("other"), 100.0) == TARGET
    assert served.policy(BIG, 101.0 + LATELY_S) == TARGET


def test_the_start_of_a_process_on_a_busy_machine_is_no_failure() -> None:
    assert failed_after(TARGET, 100.0) < 6.0
    assert failed_after(RETURNING, 100.0) >= 60.0
