"""The state folder: one holder at a time, nothing stale believed, nothing secret readable by others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twd.process.home import AlreadyRunning, RunningInstance, StateFolder, Unrecorded, move_aside
from twd.wire.failures import TwdError

HOLD = """
import sys, pathlib
from twd.process.home import StateFolder
home = StateFolder(pathlib.Path(sys.argv[1]))
home.prepare()
home.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> StateFolder:
    made = StateFolder(tmp_path / "state")
    made.prepare()
    return made


def instance(pid: int = 4711) -> RunningInstance:
    return RunningInstance(
        pid=pid,
        born=1.0,
        started_ms=1,
        version="0",
        node="desk",
        bus_url="nats://127.0.0.1:4222",
        bus_token="secret",
        addresses={"api": "http://127.0.0.1:8088"},
    )


def test_folders_are_private(home: StateFolder) -> None:
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home.path, home.logs, home.run))


def test_the_second_is_refused_and_told_who_the_first_is(home: StateFolder) -> None:
    held = home.acquire()
    home.write_instance(instance())
    with pytest.raises(AlreadyRunning, match=r"pid 4711, api http://127\.0\.0\.1:8088"):
        home.acquire()
    assert home.running() == instance()
    os.close(held)
    assert home.running() is None
    os.close(home.acquire())


def test_two_homes_do_not_meet(home: StateFolder, tmp_path: Path) -> None:
    other = StateFolder(tmp_path / "other")
    other.prepare()
    one, another = home.acquire(), other.acquire()
    home.write_instance(instance())
    assert home.running() == instance()
    os.close(one)
    assert home.running() is None
    assert other.held()
    os.close(another)


def test_a_record_that_is_about_to_come_is_waited_for(home: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: home.write_instance(instance()))
    held = home.acquire()
    assert home.running() == instance()
    os.close(held)


@pytest.mark.parametrize("junk", [None, b"{half"])
def test_a_holder_that_nobody_can_name_is_not_taken_for_nobody(
    home: StateFolder, junk: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.process.home.RECORD_PATIENCE_S", 0.0)
    if junk is not None:
        (home.run / "instance.json").write_bytes(junk)
    held = home.acquire()
    with pytest.raises(Unrecorded, match=r"run/lock is held, but .*run/instance\.json"):
        home.running()
    os.close(held)


def test_a_killed_holder_holds_no_longer(home: StateFolder) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert home.held()
        holder.kill()
        holder.wait(10)
    assert not home.held()
    os.close(home.acquire())


def test_a_stale_record_is_removed_and_told(home: StateFolder) -> None:
    home.write_instance(instance())
    os.close(home.acquire())
    assert home.running() is None
    assert "4711" in home.clear_stale()
    assert home.clear_stale() == ""


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"\xff\xfe", b'{"pid":"many"}', b"[]", b'{"pid":1}', b'{"later":' + b"[" * 9999]
)
def test_a_corrupt_record_is_moved_aside_and_told(home: StateFolder, junk: bytes) -> None:
    file = home.run / "instance.json"
    file.write_bytes(junk)
    os.close(home.acquire())
    assert home.running() is None
    told = home.clear_stale()
    assert "instance.json" in told
    assert "moved to" in told
    assert not file.exists()
    assert [path.read_bytes() for path in home.run.glob("instance.json.bad-*")] == [junk]


def test_moving_aside_keeps_the_contents(tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_bytes(b"junk")
    assert move_aside(target).read_bytes() == b"junk"
    assert not target.exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TwdError, match="TWD_HOME"):
        StateFolder(tmp_path / "file" / "home").prepare()


def test_a_folder_that_a_newer_version_wrote_is_left_whole(tmp_path: Path) -> None:
    home = StateFolder(tmp_path / "state")
    home.prepare()
    home.prepare()
    newer = '{"format":99,"written_by":"7.0.0","more":[1]}'
    (home.path / "format.json").write_text(newer)
    before = sorted(home.path.rglob("*"))
    with pytest.raises(TwdError, match=r"is of twd 7\.0\.0 \(form 99\).*twd upgrade"):
        home.prepare()
    assert (home.path / "format.json").read_text() == newer
    assert sorted(home.path.rglob("*")) == before
    (home.path / "format.json").write_text("junk")
    with pytest.raises(TwdError, match="nobody knows whether this version"):
        home.prepare()
