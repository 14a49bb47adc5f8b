"""An installation that meets a full disk, or a fault of its own: that is told, and everything runs on."""

import sys
from pathlib import Path

import pytest

from tests.supervisor.test_service import ctx
from tests.waiting import alive, until
from twd.bus.base import Bus
from twd.bus.memory.bus import MemoryBroker
from twd.kit import tasks
from twd.kit.exit_codes import ExitCode
from twd.process.home import StateFolder
from twd.process.process_table import ProcessTable, StartPhase
from twd.process.supervisor import ProcessSpec
from twd.settings.model import Settings
from twd.supervisor.installation import installation as module
from twd.supervisor.installation.installation import Installation
from twd.supervisor.service import SupervisorService
from twd.supervisor.start_display import SilentView
from twd.wire.base import NodeId
from twd.wire.failures import TwdError
from twd.wire.service import Health


@pytest.fixture
def home(tmp_path: Path) -> StateFolder:
    """Not prepared: nothing can be written into it."""
    return StateFolder(tmp_path / "home")


def installation(home: StateFolder) -> Installation:
    return Installation(Settings(), home, NodeId("desk"), (), SilentView())


def test_a_record_that_cannot_be_written_is_told_until_it_can(home: StateFolder) -> None:
    house = installation(home)
    house._changed()
    assert "nothing can be written in" in house.picture().note
    assert "make room there" in house.picture().note
    home.prepare()
    house._changed()
    assert home.read_instance()[0] is not None


def test_settings_that_cannot_be_kept_are_refused_and_kept_later(home: StateFolder) -> None:
    house = installation(home)
    with pytest.raises(TwdError, match="make room there"):
        house._keep_settings(Settings(node="other"))
    home.prepare()
    house._changed()
    assert b"other" in home.settings_file.read_bytes()


async def test_what_ails_a_supervisor_stands_in_its_lease() -> None:
    supervisor_service = SupervisorService(ctx(MemoryBroker(), 1), ProcessTable(), lambda: None)
    await supervisor_service.start()
    supervisor_service.ails("disk", "the disk is full")
    assert (supervisor_service.lease().health, supervisor_service.lease().note) == (Health.DEGRADED, "the disk is full")
    supervisor_service.ails("disk", "")
    assert (supervisor_service.lease().health, supervisor_service.lease().note) == (Health.OK, "")
    await supervisor_service.stop()


async def test_a_process_that_ends_while_drafters_are_measured_is_waited_for_again(home: StateFolder) -> None:
    home.prepare()
    house = Installation(Settings(), home, NodeId("desk"), (ProcessSpec("job", ("job",)),), SilentView())
    row = house._table.rows["job"]
    row.stage = StartPhase.READY
    house._changed()
    opening = house._opening
    assert opening is not None
    row.stage = StartPhase.STARTING
    await opening
    assert house.picture().ready_ms == 0
    row.stage = StartPhase.READY
    house._changed()
    await until(lambda: house.picture().ready_ms, "it is ready")


async def test_faults_of_the_supervisor_end_none_of_its_processes(
    home: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bus(*_: object) -> Bus:
        return broker.connect("desk")

    monkeypatch.setattr(module, "connect", bus)
    monkeypatch.setattr(tasks, "AGAIN_S", 0.0)
    home.prepare()
    broker, sleeper = MemoryBroker(), (sys.executable, "-S", "-c", "import time; time.sleep(600)")
    house = Installation(Settings(), home, NodeId("desk"), (ProcessSpec("job", sleeper),), SilentView())
    group = tasks.TaskGroup("test", lambda name, error: None)
    running = group.start("house", house.run(None))
    await until(lambda: house._service.current is not None and house._service.current.note == "", "it oversees")
    await until(lambda: house._table.rows["job"].pid, "its process runs")
    pid, first = house._table.rows["job"].pid, house._service.current
    assert first is not None
    first.fail(RuntimeError("the look-out broke"), "test")
    house._tasks.start("one more", broken())
    await until(lambda: house._service.current not in (None, first), "a new one")
    second = house._service.current
    assert second is not None
    await until(lambda: second.health is not Health.STARTING, "it oversees")
    await until(lambda: "fault in" in second.note, "it stands in the status")
    assert "everything runs on" in house.picture().note
    assert second.fault is None
    assert alive(pid)
    assert house._table.rows["job"].pid == pid
    assert not running.done()
    house._stop.request()
    assert await running is ExitCode.OK


async def broken() -> None:
    raise RuntimeError("a task broke")
