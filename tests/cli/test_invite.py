"""`twd invite`: one line that lets another machine in, and why there is none."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from twd.bus.join import Join, read_join
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode
from twd.process import platform
from twd.process.home import RunningInstance, StateFolder

PIN = "ab" * 32


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFolder]:
    """A state folder that a supervisor holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "state"))
    home = StateFolder(tmp_path / "state")
    home.prepare()
    held = home.acquire()
    yield home
    os.close(held)


def runs(home: StateFolder, *, broker: bool = True, pin: str = PIN) -> None:
    home.write_instance(
        RunningInstance(
            pid=os.getpid(),
            born=platform.born(os.getpid()) or 0.0,
            started_ms=1,
            version="1",
            node="here",
            bus_url="tls://127.0.0.1:4333",
            bus_token="s3cret",
            bus_fingerprint=pin,
            processes={"broker": 1} if broker else {"edge": 1},
        )
    )


def test_it_prints_one_line_for_another_machine(
    home: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWD_BUS_HOST", "0.0.0.0")
    runs(home)
    assert run(["invite", "--host", "rig.lan"]) == ExitCode.OK
    said = capsys.readouterr()
    assert read_join(said.out) == Join("tls://rig.lan:4333", "s3cret", PIN)
    assert "secret" in said.err
    assert run(["invite"]) == ExitCode.OK
    assert "127.0.0.1" not in capsys.readouterr().out


def test_a_broker_on_loopback_invites_nobody(home: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    runs(home)
    assert run(["invite"]) == ExitCode.CONFIG
    said = capsys.readouterr()
    assert "TWD_BUS_HOST" in said.err
    assert said.out == ""


def test_a_broker_elsewhere_invites_there(
    home: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWD_BUS_URL", "nats://elsewhere:4222")
    runs(home, broker=False)
    assert run(["invite"]) == ExitCode.CONFIG
    assert "another machine's" in capsys.readouterr().err


def test_where_nothing_runs_there_is_nothing_to_join(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWD_HOME", str(tmp_path))
    assert run(["invite"]) == ExitCode.NOTHING_RUNS
    assert "twd up" in capsys.readouterr().err
