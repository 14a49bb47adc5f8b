"""The supervisor on the bus: ends are told, dead leases go, the board follows."""

import random
from collections.abc import Iterable

import pytest

from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.kit import tasks
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Service, ServiceContext
from twd.process.process_table import ProcessRow, ProcessTable, StartPhase
from twd.process.supervisor import ProcessExit
from twd.supervisor.first_trials import ATTACH_S, FirstTrials
from twd.supervisor.service import SupervisorService
from twd.wire.base import Event, InstanceId, ModelId, NodeId
from twd.wire.codec import decode
from twd.wire.draft import DrafterAttached, DrafterChecked, DrafterDetached
from twd.wire.model import VocabFingerprint
from twd.wire.service import Health, ServiceExited, ServiceFaulted, ServiceLease, read_lease


class Worker(Service):
    """Something to watch."""

    name = "worker"


def ctx(broker: MemoryBroker, pid: int, node: str = "desk") -> ServiceContext:
    return ServiceContext(broker.connect(node), NodeId(node), SystemClock(), Ids(random.Random(pid)), pid=pid)


def gone(pid: int) -> ProcessExit:
    return ProcessExit(
        name="worker", pid=pid, code=-9, ran_s=1.0, restarts=2, retry_in_s=0.4, last_words="w" * 9000, problem="w"
    )


async def start(broker: MemoryBroker) -> tuple[SupervisorService, ProcessTable, list[int]]:
    changes: list[int] = []
    table = ProcessTable({"worker": ProcessRow(name="worker")})
    table.started("worker", 7)
    supervisor_service = SupervisorService(ctx(broker, 1), table, lambda: changes.append(1))
    await supervisor_service.start()
    return supervisor_service, table, changes


async def test_the_board_follows_a_service_that_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("LOOK_S", "LOOK_WHILE_STARTING_S"):
        monkeypatch.setattr(f"twd.supervisor.service.{pause}", 0.05)
    broker = MemoryBroker()
    supervisor_service, table, changes = await start(broker)
    worker = Worker(ctx(broker, 7))
    await worker.start()
    await until(lambda: table.ready, "the worker is ready")
    assert changes
    worker.health = Health.DEGRADED
    await worker.renew_lease()
    await until(lambda: table.rows["worker"].stage is StartPhase.DEGRADED, "the worker is degraded")
    await worker.stop()
    await supervisor_service.stop()


async def test_a_service_of_the_same_pid_on_another_machine_is_a_stranger() -> None:
    broker = MemoryBroker()
    supervisor_service, table, _ = await start(broker)
    stranger = Worker(ctx(broker, 7, node="shelf"))
    await stranger.start()
    await supervisor_service._look()
    assert table.rows["worker"].stage is StartPhase.STARTING
    await stranger.stop()
    await supervisor_service.stop()


async def test_the_end_of_a_process_is_told_and_its_lease_goes() -> None:
    broker = MemoryBroker()
    heard: list[Event] = []

    def hear(message: object) -> None:
        event = decode(message.data)  # type: ignore[attr-defined]
        assert isinstance(event, Event)
        heard.append(event)

    await broker.connect("watcher").subscribe("twd.v1.service.exited.>", hear)
    supervisor_service, _, _ = await start(broker)
    worker = Worker(ctx(broker, 7))
    await worker.start()
    registry = await broker.connect("watcher").leases(LEASE_BUCKET, LEASE_TTL_S)
    worker.tasks._on_error = lambda name, error: None
    await worker.tasks.close()  # as a killed process: it renews nothing and says nothing

    supervisor_service.tell_exit(gone(7))
    await until(lambda: heard, "the end is told")
    event = heard[0]
    assert isinstance(event, ServiceExited)
    assert (event.pid, event.exit_code, event.restarts, event.retry_in_ms) == (7, -9, 2, 400)
    assert len(event.last_words) == 4096
    await until(
        lambda: not any(name.endswith(":clear") for name in supervisor_service.tasks.names), "its lease is cleared"
    )
    assert await registry.get(worker.instance) is None
    assert await registry.get(supervisor_service.instance) is not None
    await supervisor_service.stop()


async def test_after_its_end_it_says_nothing() -> None:
    broker = MemoryBroker()
    supervisor_service, _, _ = await start(broker)
    watcher, heard = broker.connect("watcher"), list[str]()
    await watcher.subscribe("twd.v1.service.exited.>", lambda message: heard.append("an end"))
    await watcher.subscribe("later", lambda message: heard.append("later"))
    await supervisor_service.stop()
    supervisor_service.tell_exit(gone(7))
    watcher.publish("later", b"")
    await until(lambda: heard, "all is heard")
    assert heard == ["later"]


async def test_a_lease_that_nobody_can_read_is_nobodys_fault() -> None:
    broker = MemoryBroker()
    supervisor_service, _, _ = await start(broker)
    leases = await broker.connect("stranger").leases(LEASE_BUCKET, LEASE_TTL_S)
    await leases.put("stranger", b'{"note": "\xff"}')
    await supervisor_service._look()
    assert [
        read_lease(entry.value, entry.key) for entry in await supervisor_service.entries() if entry.key == "stranger"
    ] == [None]
    assert supervisor_service.fault is None
    await supervisor_service.stop()


class BrokenBoard(ProcessTable):
    """One that cannot be read into, until it is mended."""

    broken = True

    def see(self, leases: Iterable[ServiceLease], now_ms: int) -> bool:
        if self.broken:
            raise RuntimeError("the board is broken")
        return super().see(leases, now_ms)


async def test_a_fault_in_the_look_out_is_told_and_the_look_out_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.0)
    broker, heard = MemoryBroker(), list[Event]()
    await broker.connect("watcher").subscribe("twd.v1.service.faulted.>", lambda one: heard.append(decoded(one.data)))
    table = BrokenBoard({"worker": ProcessRow(name="worker")})
    table.started("worker", 7)
    supervisor_service, worker = SupervisorService(ctx(broker, 1), table, lambda: None), Worker(ctx(broker, 7))
    await supervisor_service.start()
    await worker.start()
    await until(lambda: len(heard) > 1, "the fault is told, and it was tried again")
    event = heard[0]
    assert isinstance(event, ServiceFaulted)
    assert (event.during, event.failure.message) == ("look-out", "RuntimeError: the board is broken")
    assert supervisor_service.lease().health is Health.DEGRADED
    assert "the board is broken" in supervisor_service.lease().note
    table.broken = False
    await until(lambda: table.ready, "it looks again")
    assert (supervisor_service.fault, supervisor_service.lease().health, supervisor_service.lease().note) == (
        None,
        Health.OK,
        "",
    )
    await worker.stop()
    await supervisor_service.stop()


def decoded(data: bytes) -> Event:
    event = decode(data)
    assert isinstance(event, Event)
    return event


class DraftingWorker(Worker):
    """A drafter, as far as the supervisor hears of it."""

    name = "drafter"
    writes = (DrafterAttached, DrafterDetached)

    def attach(self) -> None:
        vocab = VocabFingerprint(hash="h", tokens=1)
        self.emit(DrafterAttached(drafter=self.instance, node=NodeId("desk"), model=ModelId("small"), vocab=vocab))


class MeasuringWorker(Worker):
    """A target, as far as the supervisor hears of it."""

    name = "speculator"
    writes = (DrafterChecked,)

    def checked(self, drafter: InstanceId) -> None:
        self.emit(
            DrafterChecked(
                drafter=drafter,
                target=ModelId("big"),
                same_vocab=True,
                same_family=True,
                agreement=0.9,
                compared=64,
                pays=True,
            )
        )


async def test_it_hears_which_drafters_attach_are_measured_and_leave() -> None:
    broker, trials = MemoryBroker(), FirstTrials(expected=True)
    supervisor_service = SupervisorService(ctx(broker, 1), ProcessTable(), lambda: None, trials=trials)
    first, second, target = (
        DraftingWorker(ctx(broker, 7)),
        DraftingWorker(ctx(broker, 8)),
        MeasuringWorker(ctx(broker, 9)),
    )
    services = (supervisor_service, first, second, target)
    for service in services:
        await service.start()
    first.attach()
    await until(lambda: not trials.over(ATTACH_S), "the first drafter's trial is waited for")
    target.checked(first.instance)
    await until(lambda: trials.over(ATTACH_S), "the first drafter is measured")
    second.attach()
    await until(lambda: not trials.over(ATTACH_S), "the second drafter's trial is waited for")
    second.emit(DrafterDetached(drafter=second.instance))
    await until(lambda: trials.over(ATTACH_S), "the second drafter left")
    for service in reversed(services):
        await service.stop()
