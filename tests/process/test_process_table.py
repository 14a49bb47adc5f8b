"""What the supervisor's table says, from what processes and their leases say."""

import msgspec
import pytest

from twd.kit.exit_codes import ExitCode
from twd.process.process_table import (
    HOPELESS_RESTARTS,
    Need,
    ProcessRow,
    ProcessTable,
    StartPhase,
    Wait,
    hopeless,
    shown_stage,
    stage_of,
)
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.leases.base import WorkerFacts
from twd.wire.service import Health, ServiceLease


def lease(pid: int, health: Health = Health.OK, note: str = "", ready: bool = True, model: str = "") -> ServiceLease:
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
        facts=WorkerFacts(ready=ready, model=ModelId(model)),
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


def needs(**needed: Need) -> ProcessTable:
    made = board(*needed)
    for name, need in needed.items():
        made.rows[name].need = need
    return made


AWAY = {"health": Health.DEGRADED, "ready": False, "note": "connection refused"}


def test_others_go_on_without_what_is_optional_and_it_is_taken_in_when_it_comes() -> None:
    table = needs(edge=Need.ALWAYS, drafter=Need.NOT)
    table.see([lease(1), lease(2, **AWAY)], 0)  # type: ignore[arg-type]
    assert ready(table)
    assert table.missing == {"drafter": "connection refused"}
    assert hopeless(list(table.rows.values())) is None
    table.wait = Wait.ALL
    assert not ready(table)
    table.see([lease(1), lease(2)], 0)
    assert ready(table)
    assert table.missing == {}


def test_what_is_optional_and_ends_is_missing_until_it_has_worked_once() -> None:
    table = needs(drafter=Need.NOT)
    table.exited("drafter", ExitCode.CANNOT_START, 7, 10.0, "connection refused")
    assert table.missing == {"drafter": "exit code 7, again in 10 s: connection refused"}
    table.started("drafter", 1)
    table.see([lease(1)], 1)
    table.exited("drafter", -9, 8, 0.1, "")
    assert stage(table, "drafter") is StartPhase.RESTARTING


def test_one_of_several_models_is_enough_and_none_is_not() -> None:
    table = needs(big=Need.ONE, small=Need.ONE)
    table.see([lease(1, **AWAY), lease(2)], 0)  # type: ignore[arg-type]
    assert ready(table)
    assert hopeless(list(table.rows.values())) is None
    table.see([lease(1, **AWAY), lease(2, **AWAY)], 0)  # type: ignore[arg-type]
    assert not ready(table)
    over = hopeless(list(table.rows.values()))
    assert over is not None
    assert (over.name, over.note) == ("big", "connection refused")


@pytest.mark.parametrize(
    ("need", "code", "restarts", "over"),
    [
        (Need.ALWAYS, ExitCode.FAULT, 0, False),
        (Need.ALWAYS, ExitCode.FAULT, HOPELESS_RESTARTS, True),
        (Need.ALWAYS, ExitCode.BUS_DOWN, 100, False),
        (Need.ALWAYS, ExitCode.CONFIG, 0, True),
        (Need.NOT, ExitCode.FAULT, 100, False),
        (Need.NOT, ExitCode.CONFIG, 0, True),
    ],
)
def test_over_what_a_start_is_given_up(need: Need, code: ExitCode, restarts: int, over: bool) -> None:
    table = needs(it=need)
    table.exited("it", code, restarts, 1.0, "")
    assert (hopeless(list(table.rows.values())) is not None) == over
    table.rows["it"].ready_ms = 1
    assert hopeless(list(table.rows.values())) is None


def test_people_read_that_a_drafter_is_missing_and_that_a_model_failed() -> None:
    away = lease(1, **AWAY)  # type: ignore[arg-type]
    assert shown_stage(away) is StartPhase.FAILED
    assert shown_stage(msgspec.structs.replace(away, service="drafter")) is StartPhase.MISSING


def test_a_row_tells_another_process_which_model_it_has() -> None:
    table = board("speculator.m")
    table.see([lease(1, model="m")], 2000)
    row = table.rows["speculator.m"]
    assert msgspec.json.decode(msgspec.json.encode(row), type=ProcessRow).model == "m"
    table.started("speculator.m", 2)
    assert row.model == ""
