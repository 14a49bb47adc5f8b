"""What a service manager hears of an installation, over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.datagrams import Listener, listening
from tests.waiting import until
from twd.kit.tasks import TaskGroup
from twd.process.notify import NotifySocket
from twd.process.process_table import Need, ProcessRow, ProcessTable, StartPhase
from twd.supervisor.service_manager import notifier as module
from twd.supervisor.service_manager.notifier import ServiceManagerNotifier


class House:
    """An installation of one model whose API says what a test wants."""

    def __init__(self, way: NotifySocket) -> None:
        self.api = 503
        self.asked: list[str] = []
        self.gave_up: list[str] = []
        rows = {name: ProcessRow(name=name, need=Need.ALWAYS) for name in ("edge", "speculator.big")}
        self.table = ProcessTable(rows)
        self.manager = ServiceManagerNotifier(way, self.table, lambda: "http://api", self.gave_up.append, self.ask)

    async def ask(self, url: str) -> int:
        self.asked.append(url)
        return self.api

    def all_work(self) -> None:
        for row in self.table.rows.values():
            row.stage, row.ready_ms = StartPhase.READY, 1


@asynccontextmanager
async def telling(manager: Listener, watchdog_s: float = 0.04) -> AsyncIterator[House]:
    house = House(NotifySocket(manager.path, watchdog_s))
    tasks = TaskGroup("test", lambda name, error: None)
    tasks.keep("tell", house.manager.keep_telling)
    try:
        yield house
    finally:
        await tasks.close()


@pytest.fixture(autouse=True)
def _it_looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_STARTING_S", 0.005)


def count(manager: Listener, name: str) -> Callable[[], int]:
    return lambda: sum(name in message for message in manager.hear())


async def test_ready_comes_after_the_api_says_yes_and_the_start_is_extended_until_then(tmp_path: Path) -> None:
    with listening(tmp_path / "notify") as manager:
        async with telling(manager) as house:
            await until(lambda: count(manager, "EXTEND_TIMEOUT_USEC")() >= 3)
            house.all_work()
            asked = len(house.asked)
            await until(lambda: len(house.asked) > asked + 2)
            assert count(manager, "READY")() == 0
            house.api = 200
            await until(lambda: count(manager, "READY")() == 1)
            await until(lambda: count(manager, "WATCHDOG")() >= 3)
        assert count(manager, "READY")() == 1
        first = next(number for number, one in enumerate(manager.messages) if "WATCHDOG" in one)
        assert "READY" in str(manager.messages[:first])
        assert set(house.asked) == {"http://api/readyz"}
        assert manager.messages[0]["STATUS"].startswith("starting: edge is starting")


async def test_no_sign_of_life_while_it_cannot_answer_and_nobody_mends_it(tmp_path: Path) -> None:
    with listening(tmp_path / "notify") as manager:
        async with telling(manager) as house:
            house.all_work()
            house.api = 200
            await until(lambda: count(manager, "WATCHDOG")() >= 1)
            house.api = 0
            await until(lambda: count(manager, "STATUS")() and manager.messages[-1].get("STATUS", "").startswith("the"))
            beats, asked = count(manager, "WATCHDOG")(), len(house.asked)
            await until(lambda: len(house.asked) > asked + 5)
            assert count(manager, "WATCHDOG")() == beats
            house.table.rows["edge"].stage = StartPhase.RESTARTING  # now its supervisor mends it
            await until(lambda: count(manager, "WATCHDOG")() > beats)


async def test_a_start_that_cannot_succeed_is_given_up(tmp_path: Path) -> None:
    with listening(tmp_path / "notify") as manager:
        async with telling(manager) as house:
            row = house.table.rows["speculator.big"]
            row.stage, row.note = StartPhase.FAILED, "no such file"
            await until(lambda: house.gave_up)
        assert house.gave_up[0] == "speculator.big cannot start: no such file"
        assert count(manager, "READY")() == 0


async def test_the_end_is_told_and_nothing_after_it(tmp_path: Path) -> None:
    with listening(tmp_path / "notify") as manager:
        async with telling(manager) as house:
            house.all_work()
            house.api = 200
            await until(lambda: count(manager, "READY")() == 1)
            house.manager.ending()
            await asyncio.sleep(0)
        assert manager.hear()[-1]["STOPPING"] == "1"


async def test_without_a_service_manager_nothing_happens() -> None:
    silent = ServiceManagerNotifier(None, ProcessTable(), lambda: "", lambda why: None)
    await silent.keep_telling()
    silent.status("nobody hears it")
    silent.ending()
    assert not silent.present
