"""`twd logs`: the right lines, readable, or as they were written."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from tests.waiting import wait_until
from twd.cli.app import run
from twd.cli.logs import _last_lines, _whole_lines, readable
from twd.kit.exit_codes import ExitCode
from twd.process.home import RunningInstance, StateFolder
from twd.process.platform import born

LINE = json.dumps(
    {"at": "2026-01-01T12:00:00.123+00:00", "level": "info", "service": "edge", "logger": "twd.edge", "text": "hello"}
)


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWD_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "edge.log").write_text("".join(f"line {number}\n" for number in range(50)) + LINE + "\n")
    (folder / "speculator.a.log").write_text("loading\n")
    (folder / "speculator.b.log").write_text("loaded\n")
    return folder


def test_the_last_lines_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "edge", "-n", "2"]) == 0
    assert capsys.readouterr().out == "line 49\n12:00:00.123 info    edge: hello\n"


def test_several_come_with_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "speculator"]) == 0
    assert capsys.readouterr().out == "speculator.a: loading\nspeculator.b: loaded\n"


def test_as_they_were_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "edge", "-n", "1", "--json"]) == 0
    assert capsys.readouterr().out == LINE + "\n"


def test_one_that_is_not_there_is_named_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "edge", "drafter"]) == ExitCode.NOT_FOUND
    assert "no log of drafter; there are: edge, speculator.a, speculator.b" in capsys.readouterr().err


def test_clearing_empties_old_ones_too(logs: Path) -> None:
    (logs / "edge.log.1").write_text("old")
    assert run(["logs", "edge", "--clear"]) == 0
    assert (logs / "edge.log").read_text() == (logs / "edge.log.1").read_text() == ""
    assert (logs / "speculator.a.log").read_text()


def test_those_of_an_earlier_installation_are_shown_when_named(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(logs / "speculator.a.log", (1.0, 1.0))
    home = StateFolder(logs.parent)
    home.prepare()
    home.acquire()
    try:
        begun_ms = 1000 * int(time.time() - 60)
        began = born(os.getpid()) or 0.0
        home.write_instance(RunningInstance(pid=os.getpid(), born=began, started_ms=begun_ms, version="0", node="desk"))
        assert run(["logs", "-n", "1", "--json"]) == 0
        said = capsys.readouterr()
        assert said.out.splitlines() == [LINE, "loaded"]
        assert said.err == "from before the last start, shown when named: speculator.a\n"
        assert run(["logs", "speculator.a"]) == 0
        assert capsys.readouterr().out == "loading\n"
    finally:
        home.forget_instance()


def test_following_without_lines_begins_at_the_end(logs: Path) -> None:
    with (logs / "edge.log").open() as stream:
        assert _last_lines(stream, 0, follow=True) == []
        assert stream.read() == ""


def test_a_line_that_is_still_being_written_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "half.log"
    file.write_bytes("one\nh\u00e9".encode()[:-1])
    with file.open(errors="replace") as stream, file.open("ab") as writer:
        assert _last_lines(stream, 5, follow=True) == ["one\n"]
        assert list(_whole_lines(stream)) == []
        writer.write("\u00e9lo\ntwo\nthr".encode()[1:])
        writer.flush()
        assert list(_whole_lines(stream)) == ["h\u00e9lo\n", "two\n"]
        writer.write(b"ee\n")
        writer.flush()
        assert list(_whole_lines(stream)) == ["three\n"]
    with file.open() as stream:
        assert _last_lines(stream, 1, follow=False) == ["three\n"]


@pytest.mark.parametrize("line", ["plain", '{"at"', '{"at": 5}', '{"at": "x", "level": "info"}'])
def test_what_is_no_log_line_of_ours_stays_as_it_is(line: str) -> None:
    assert readable(line + "\n") == line


def test_nothing_to_show_is_told(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in logs.glob("*.log"):
        file.unlink()
    assert run(["logs"]) == ExitCode.NOT_FOUND
    assert "no log in" in capsys.readouterr().err
    assert run(["logs", "-n", "-5"]) == ExitCode.USAGE


def test_a_process_that_starts_later_is_followed_too(logs: Path) -> None:
    following = subprocess.Popen(
        [sys.executable, "-P", "-m", "twd", "logs", "-f", "-n", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert following.stdout is not None
        with (logs / "edge.log").open("a") as edge:
            wait_until(lambda: following.poll() is None and _says(following, edge), "it follows", timeout_s=30)
        (logs / "relay.new.log").write_text("hello\n")
        assert next(line for line in following.stdout if "relay" in line) == "relay.new: hello\n"
    finally:
        following.kill()
        following.wait()


def _says(following: "subprocess.Popen[str]", log: IO[str]) -> bool:
    """Write until the follower has come to read: what was written before it began is not shown."""
    assert following.stdout is not None
    log.write("tick\n")
    log.flush()
    return bool(select.select([following.stdout], [], [], 0.2)[0])


def test_a_terminal_obeys_nothing_that_a_log_holds(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;title\x07 \x9b31m \u202e end"
    entry = json.loads(LINE) | {"text": evil}
    (logs / "edge.log").write_text(f"{evil}\n{json.dumps(entry, ensure_ascii=False)}\n", "utf-8")
    for how in ([], ["--json"]):
        assert run(["logs", "edge", *how]) == 0
        shown = capsys.readouterr().out
        assert shown.replace("\n", "").isprintable()
        assert shown.count("\\u001b]0;title\\u0007 \\u009b31m \\u202e end") == 2
