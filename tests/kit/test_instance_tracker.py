"""A roster knows which instance a dead process was."""

from twd.kit.instance_tracker import InstanceTracker
from twd.wire.base import InstanceId, JobId, NodeId
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import JobCancelled
from twd.wire.service import ServiceExited, ServiceFaulted, ServiceLease, ServiceStarted, ServiceStopped

NODE, ONE = NodeId("a"), InstanceId("speculator.a.1")


def started(instance: InstanceId, pid: int) -> ServiceStarted:
    return ServiceStarted(source=instance, service="speculator", node=NODE, pid=pid, version="1")


def exited(pid: int) -> ServiceExited:
    return ServiceExited(
        source=InstanceId("up.a.1"), service="speculator", node=NODE, pid=pid, exit_code=-9, restarts=1
    )


def test_an_exit_is_matched_by_process() -> None:
    instances = InstanceTracker()
    assert instances.hear(started(ONE, 10)) is None
    assert instances.hear(exited(11)) is None
    assert instances.hear(exited(10)) == ONE
    assert instances.hear(exited(10)) is None


def lease(instance: InstanceId, pid: int) -> ServiceLease:
    return ServiceLease(
        service="speculator", instance=instance, node=NODE, pid=pid, version="1", started_ms=1, renewed_ms=1
    )


def test_who_started_before_is_known_from_the_registry() -> None:
    instances = InstanceTracker()
    instances.see([lease(ONE, 10)])
    assert instances.hear(exited(10)) == ONE


def test_a_start_counts_for_more_than_a_lease_of_the_past() -> None:
    instances, two = InstanceTracker(), InstanceId("speculator.a.2")
    instances.hear(started(two, 10))
    instances.see([lease(ONE, 10)])
    assert instances.hear(exited(10)) == two


def test_stops_and_faults_name_their_source() -> None:
    instances = InstanceTracker()
    failure = Failure(code=FailureCode.INTERNAL, message="x")
    assert instances.hear(ServiceStopped(source=ONE, service="speculator", node=NODE)) == ONE
    assert instances.hear(ServiceFaulted(source=ONE, service="speculator", node=NODE, failure=failure)) == ONE
    assert instances.hear(JobCancelled(source=ONE, job=JobId("j"))) is None


def test_memory_is_bounded() -> None:
    instances = InstanceTracker()
    for pid in range(10_000):
        instances.hear(started(InstanceId(f"x.{pid}"), pid))
    assert instances.hear(exited(0)) is None
    assert instances.hear(exited(9_999)) == "x.9999"
