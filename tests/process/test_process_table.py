"""What the supervisor's table says, from what processes and their leases say."""

import pytest

from twd.process.process_table import ProcessRow, ProcessTable, StartPhase, stage_of
from twd.wire.base import InstanceId, NodeId
from twd.wire.service import Health, ServiceLease


def lease(pid: int, health: Health = Health.OK, note: str = "", **facts: str | int | float | bool) -> ServiceLease:
    return ServiceLease(
        service="edge",
        instance=InstanceId(f"edge.desk.{pid}"),
        node=NodeId("desk"),
        pid=pid,
        version="0",
        started_ms=0,
        renewed_ms=0,
        health=health,
        note=note,
        facts=dict(facts),
    )


def ready(table: ProcessTable) -> bool:
    return table.ready


def stage(table: ProcessTable, name: str) -> StartPhase:
    return table.rows[name].stage


def board(*names: str) -> ProcessTable:
    made = ProcessTable({name: ProcessRow(name=name) for name in names}, began_ms=1000)
    for pid, name in enumerate(names, 1):
        made.started(name, pid)
    return made


@pytest.mark.parametrize(
    ("health", "works", "stage"),
    [
        (Health.OK, True, StartPhase.READY),
        (Health.OK, False, StartPhase.LOADING),
        (Health.STARTING, False, StartPhase.LOADING),
        (Health.DEGRADED, True, StartPhase.DEGRADED),
        (Health.DEGRADED, False, StartPhase.FAILED),
        (Health.DRAINING, True, StartPhase.DRAINING),
    ],
)
def test_a_lease_tells_the_stage(health: Health, works: bool, stage: StartPhase) -> None:
    assert stage_of(lease(1, health, ready=works)) is stage


def test_ready_is_when_all_are() -> None:
    table = board("edge", "speculator")
    assert not ready(table)
    assert table.see([lease(1)], 1500)
    assert not ready(table)
    assert table.see([lease(1), lease(2, ready=False, note="loading")], 2000)
    assert not ready(table)
    assert table.see([lease(1), lease(2, Health.DEGRADED, ready=True)], 3000)
    assert ready(table)
    assert [row.ready_ms for row in table.rows.values()] == [500, 2000]
    assert not table.see([lease(1), lease(2, Health.DEGRADED, ready=True)], 4000)


def test_an_empty_table_is_never_ready() -> None:
    assert not ProcessTable().ready


def test_leases_of_strangers_and_of_dead_processes_count_for_nothing() -> None:
    table = board("edge")
    assert not table.see([lease(99)], 0)
    table.exited("edge", -9, 0, 0.1, "it ran out of memory")
    assert not table.see([lease(1)], 0)
    row = table.rows["edge"]
    assert stage(table, "edge") is StartPhase.RESTARTING
    assert row.restarts == 1
    assert row.note == "exit code -9, again in 0.1 s: it ran out of memory"
    table.started("edge", 7)
    assert stage(table, "edge") is StartPhase.STARTING
    assert table.see([lease(1), lease(7)], 0)
    assert ready(table)


def test_who_fell_silent_is_seen_and_comes_back() -> None:
    table = board("edge")
    table.see([lease(1)], 2000)
    assert table.see([], 3000)
    assert stage(table, "edge") is StartPhase.SILENT
    assert table.see([lease(1)], 4000)
    assert table.rows["edge"].ready_ms == 1000


def test_the_broker_holds_no_lease() -> None:
    table = ProcessTable({"broker": ProcessRow(name="broker", leased=False)}, began_ms=0)
    table.started("broker", 1)
    table.works("broker", 120)
    assert not table.see([], 500)
    assert ready(table)
    assert table.rows["broker"].ready_ms == 120


def test_loading_is_told_by_model() -> None:
    table = board("edge", "speculator")
    table.see([lease(1), lease(2, Health.STARTING, ready=False, model="llama")], 0)
    table.loading("llama", 0.4, "reading weights")
    table.loading("other", 0.9, "reading weights")
    assert table.rows["speculator"].note == "reading weights 40%"


def test_what_waits_for_mending_says_why_and_counts_no_more_once_all_end() -> None:
    table = board("edge", "speculator")
    table.see([lease(1), lease(2, Health.DEGRADED, ready=False, note="no such file")], 0)
    assert (stage(table, "speculator"), table.rows["speculator"].note) == (StartPhase.FAILED, "no such file")
    table.ends(StartPhase.DRAINING)
    assert not table.see([lease(1), lease(2)], 0)
    assert {row.stage for row in table.rows.values()} == {StartPhase.DRAINING}
