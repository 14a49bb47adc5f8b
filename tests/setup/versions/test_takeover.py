"""A new version takes over; whatever it does, in the end a version runs that works."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.setup.versions.test_folder import add
from twd.setup.versions.folder import VersionProblem, VersionsFolder
from twd.setup.versions.takeover import Takeover, TakeoverPolicy


@dataclass
class PlayedHouse:
    """Runs versions that behave as a test says."""

    folder: VersionsFolder
    bad_start: bool = False
    fails_after_s: float = 1e9
    """Seconds after which the new version is in trouble."""
    running: str = "0.1.0"
    time: float = 0.0
    began: float = 0.0
    story: list[str] = field(default_factory=list)

    def runs(self) -> bool:
        return bool(self.running)

    def stop(self) -> None:
        self.story.append(f"stop {self.running or 'nothing'}")
        self.running = ""

    def start(self, deadline_s: float) -> None:
        version = self.folder.in_use()
        self.story.append(f"start {version}")
        self.began = self.time
        if version == "0.2.0" and self.bad_start:
            self.time += deadline_s
            raise VersionProblem("it was not ready in time")
        self.running = version

    def trouble(self) -> str:
        return "it crashed" if self.running == "0.2.0" and self.time - self.began >= self.fails_after_s else ""

    def release(self) -> None:
        self.story.append("release")

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def house_in(folder: Path, **more: object) -> PlayedHouse:
    versions = VersionsFolder(folder)
    for version in ("0.1.0", "0.2.0"):
        if not versions.is_complete(version):
            add(versions, version)
    versions.take("0.1.0")
    return PlayedHouse(versions, **more)  # type: ignore[arg-type]


def take(house: PlayedHouse) -> None:
    Takeover(house.folder, house, TakeoverPolicy(), house, lambda text: None).take("0.2.0")


def test_a_version_that_works_stays(tmp_path: Path) -> None:
    house = house_in(tmp_path)
    take(house)
    assert house.story == ["stop 0.1.0", "start 0.2.0", "release"]
    assert (house.running, house.folder.before()) == ("0.2.0", "0.1.0")
    assert house.time >= TakeoverPolicy().settled_s


@pytest.mark.parametrize("fault", [{"bad_start": True}, {"fails_after_s": 0.0}, {"fails_after_s": 20.0}])
def test_the_old_one_is_back_within_a_minute(tmp_path: Path, fault: dict[str, object]) -> None:
    house = house_in(tmp_path, **fault)
    with pytest.raises(VersionProblem):
        take(house)
    assert house.running == house.folder.in_use() == "0.1.0"
    assert house.time < 60


def test_a_version_that_did_not_work_is_not_the_one_before(tmp_path: Path) -> None:
    house = house_in(tmp_path, bad_start=True)
    add(house.folder, "0.0.9")
    house.folder.give_back("0.1.0", "0.0.9")
    with pytest.raises(VersionProblem):
        take(house)
    assert (house.folder.in_use(), house.folder.before()) == ("0.1.0", "0.0.9"), "`twd rollback` goes where it went"


def test_where_nothing_runs_nothing_is_started(tmp_path: Path) -> None:
    house = house_in(tmp_path, running="")
    take(house)
    assert (house.story, house.folder.in_use()) == ([], "0.2.0")


@given(st.booleans(), st.floats(0, 60))
def test_in_the_end_the_version_in_use_is_the_one_that_runs(
    tmp_path_factory: pytest.TempPathFactory, bad_start: bool, fails_after_s: float
) -> None:
    house = house_in(tmp_path_factory.mktemp("twd"), bad_start=bad_start, fails_after_s=fails_after_s)
    try:
        take(house)
    except VersionProblem:
        assert bad_start or fails_after_s <= TakeoverPolicy().settled_s + 1
    assert house.running == house.folder.in_use()


def test_models_get_time_to_load() -> None:
    assert TakeoverPolicy().with_models(20 * 10**9).ready_s > 200
