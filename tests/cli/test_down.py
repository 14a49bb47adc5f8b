"""`twd down`: whoever waits for long is told for what."""

import os
from pathlib import Path

import pytest

from twd.cli import down
from twd.process.home import RunningInstance, StateFolder


@pytest.mark.parametrize("tells", [True, False])
def test_what_is_waited_for_is_told_once(
    tells: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(down, "TELL_S", 0.0)
    home = StateFolder(tmp_path)
    home.prepare()
    processes = {"speculator.big": os.getpid(), "edge": 0}
    home.write_instance(RunningInstance(pid=1, born=0.0, started_ms=0, version="0", node="desk", processes=processes))
    descriptor = home.acquire()
    try:
        assert not down._wait(home, 0.2, tells=tells)
    finally:
        os.close(descriptor)
    assert capsys.readouterr().err.count("waiting for speculator.big (") == tells
