"""One service in one process: it ends when told, and its exit code says why."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

import pytest

from tests.waiting import until
from twd.bus.base import Bus, BusError
from twd.bus.memory.bus import MemoryBroker
from twd.bus.nats.link import LinkError
from twd.kit.exit_codes import MEANING, ExitCode, exit_code_of
from twd.kit.service import Effects, Service, ServiceContext
from twd.process import platform, standstill
from twd.process import run_service as run_service_module
from twd.process.compute import ProcessEffort
from twd.process.heartbeat import VARIABLE, Beats
from twd.process.run_service import StopRequests, run_service, unless
from twd.wire.base import InstanceId, JobId, NodeId
from twd.wire.codec import encode
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobCancelled
from twd.wire.routes import subject_of

HERE = NodeId("desk")


class Worker(Service):
    """Faults when told to."""

    name = "worker"
    reads = (JobCancelled,)
    quiesced = False

    async def quiesce(self) -> None:
        self.quiesced = True

    def on_job_cancelled(self, event: JobCancelled) -> Effects:
        if event.job == "typed":
            raise TwdError(FailureCode.MODEL_LOAD, "planted")
        raise ValueError("planted")


class Unwilling(Worker):
    """Cannot start."""

    async def setup(self) -> None:
        raise TwdError(FailureCode.MODEL_LOAD, "no such file")


class Broken(Worker):
    """Has a bug in its start."""

    async def setup(self) -> None:
        raise ValueError("planted")


class Slow(Worker):
    """Needs a while to start."""

    async def setup(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
async def _signals_as_they_were() -> AsyncIterator[None]:
    yield
    for number in platform.STOP_SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)


class Stage:
    """A broker, and the service that was made on it."""

    def __init__(self, kind: type[Worker] = Worker) -> None:
        self.broker = MemoryBroker()
        self.kind = kind
        self.service: Worker | None = None

    def make(self, ctx: ServiceContext) -> Service:
        self.service = self.kind(ctx)
        return self.service

    async def connect(self) -> Bus:
        return self.broker.connect("desk")

    async def run(self, meanwhile: Callable[[], None]) -> ExitCode:
        async def then() -> None:
            await until(lambda: self.service is not None and self.service.handled >= 0 and self.started, "it runs")
            meanwhile()

        codes = await asyncio.gather(run_service(self.make, self.connect, HERE), then())
        return codes[0]

    @property
    def started(self) -> bool:
        return self.service is not None and (self.service._running or self.kind is Slow)

    def cancel(self, job: str) -> None:
        event = JobCancelled(job=JobId(job), source=InstanceId("edge.desk.x"))
        self.broker.connect("edge").publish(subject_of(event), encode(event))


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_sigterm_drains_and_all_is_well() -> None:
    stage = Stage()
    assert await stage.run(terminate) is ExitCode.OK
    assert stage.service is not None
    assert stage.service.quiesced


async def test_sigterm_ends_a_service_that_still_starts() -> None:
    assert await Stage(Slow).run(terminate) is ExitCode.OK


async def test_a_fault_is_told_by_the_exit_code() -> None:
    stage = Stage()
    assert await stage.run(lambda: stage.cancel("odd")) is ExitCode.FAULT
    stage = Stage()
    assert await stage.run(lambda: stage.cancel("typed")) is ExitCode.CANNOT_START


@pytest.mark.parametrize(("kind", "code"), [(Unwilling, ExitCode.CANNOT_START), (Broken, ExitCode.FAULT)])
async def test_what_cannot_start_says_so(kind: type[Worker], code: ExitCode) -> None:
    stage = Stage(kind)
    async with asyncio.timeout(20):
        assert await run_service(stage.make, stage.connect, HERE) is code


async def test_alone_it_waits_for_a_broker_that_starts_later(caplog: pytest.LogCaptureFixture) -> None:
    stage, tries = Stage(), iter([LinkError("connection refused"), LinkError("connection refused")])
    at_last = stage.connect

    async def connect() -> Bus:
        for refused in tries:
            raise refused
        return await at_last()

    stage.connect = connect  # type: ignore[method-assign]
    assert await stage.run(terminate) is ExitCode.OK
    assert caplog.text.count("connection refused; this goes on until it is there") == 2


async def test_a_broker_that_refuses_is_an_error() -> None:
    async def connect() -> Bus:
        raise LinkError("wrong token", final=True)

    with pytest.raises(BusError, match="wrong token"):
        await run_service(Stage().make, connect, HERE)


async def test_a_bus_that_is_not_there_is_an_error() -> None:
    async def connect() -> Bus:
        raise BusError("nobody there")

    with pytest.raises(BusError, match="nobody there"):
        await run_service(Stage().make, connect, HERE)


class Stuck(Worker):
    """Has a thread that computes for ever, and an event loop that turns."""

    def under_way(self) -> str:
        return "a pass"


class Left(BaseException):
    """The process would be gone."""


async def test_a_service_whose_work_stands_still_says_so_and_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> NoReturn:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(run_service_module, "LOOK_S", 0.001)
    monkeypatch.setattr(standstill, "effort", ProcessEffort)
    monkeypatch.setattr(standstill, "STILL_S", 0.01)
    beats, stage = Beats(), Stage(Stuck)
    monkeypatch.setenv(VARIABLE, beats.path)
    with pytest.raises(Left) as left:
        await run_service(stage.make, stage.connect, HERE)
    assert left.value.args == (ExitCode.WORKER_LOST,)
    assert stage.service is not None
    assert "stood still" in str(stage.service.fault)
    beats.close()


async def test_unless_gives_the_result_or_nothing() -> None:
    stop = asyncio.Event()
    assert await unless(stop, asyncio.sleep(0, "done")) == "done"
    stop.set()
    assert await unless(stop, asyncio.Event().wait()) is None


async def test_the_second_request_is_the_urgent_one() -> None:
    urgent: list[int] = []
    stop = StopRequests(lambda: urgent.append(1))
    stop.request()
    assert stop.asked.is_set()
    assert urgent == []
    stop.request()
    assert urgent == [1]


def test_every_exit_code_has_its_meaning() -> None:
    assert set(MEANING) == set(ExitCode)
    assert {exit_code_of(code) for code in FailureCode} <= set(ExitCode)
    assert exit_code_of(FailureCode.INTERNAL) is ExitCode.FAULT
