"""An installation whose disk is full: what it cannot write it tells, and goes on."""

from pathlib import Path

import pytest

from tests.kit.test_overseer import ground
from twd.bus.memory_bus import MemoryBroker
from twd.cli.installation import Installation
from twd.cli.picture import SilentView
from twd.kit.board import Board
from twd.kit.home import Home
from twd.kit.overseer import Overseer
from twd.kit.settings import Settings
from twd.wire.base import NodeId
from twd.wire.failures import TwdError
from twd.wire.service import Health


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Not prepared: nothing can be written into it."""
    return Home(tmp_path / "home")


def installation(home: Home) -> Installation:
    return Installation(Settings(), home, NodeId("desk"), (), SilentView())


def test_a_record_that_cannot_be_written_is_told_until_it_can(home: Home) -> None:
    house = installation(home)
    house._changed()
    assert "nothing can be written in" in house.picture().note
    assert "make room there" in house.picture().note
    home.prepare()
    house._changed()
    assert home.read_instance()[0] is not None


def test_settings_that_cannot_be_kept_are_refused_and_kept_later(home: Home) -> None:
    house = installation(home)
    with pytest.raises(TwdError, match="make room there"):
        house._keep_settings(Settings(node="other"))
    home.prepare()
    house._changed()
    assert b"other" in home.settings_file.read_bytes()


async def test_what_ails_a_supervisor_stands_in_its_lease() -> None:
    overseer = Overseer(ground(MemoryBroker(), 1), Board(), lambda: None)
    await overseer.start()
    overseer.ails("the disk is full")
    assert (overseer.lease().health, overseer.lease().note) == (Health.DEGRADED, "the disk is full")
    overseer.ails("")
    assert (overseer.lease().health, overseer.lease().note) == (Health.OK, "")
    await overseer.stop()
