"""Logs that stay small, and what a dead process said last."""

import errno
import logging
import shutil
from pathlib import Path

import pytest

from twd.process.log_files import KEPT, LAST_WORDS_BYTES, LogFile


def append(log: LogFile, text: str) -> None:
    with log.path.open("a") as file:
        file.write(text)


def test_a_full_log_is_copied_and_emptied_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "edge", max_bytes=100)
    with log.path.open("a") as writer:
        writer.write("a" * 101)
        writer.flush()
        assert log.rotate_if_big()
        writer.write("b")
    assert log.path.read_text() == "b"
    assert (tmp_path / "edge.log.1").read_text() == "a" * 101
    assert not log.rotate_if_big()


def test_only_some_old_logs_are_kept(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "edge", max_bytes=1)
    for number in range(KEPT + 3):
        append(log, f"{number}" * 2)
        assert log.rotate_if_big()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["edge.log", *(f"edge.log.{number}" for number in range(1, KEPT + 1))]
    assert (tmp_path / "edge.log.1").read_text() == f"{KEPT + 2}" * 2


def test_last_words_are_of_this_run_and_short(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "edge")
    append(log, "earlier run\n")
    log.begin_run()
    assert log.last_words() == ""
    append(log, "x" * 10_000 + "the end\n")
    assert log.last_words().endswith("the end")
    assert len(log.last_words()) <= LAST_WORDS_BYTES


def test_last_words_survive_a_rotation_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "edge", max_bytes=50)
    log.begin_run()
    log.path.write_bytes(b"\xff" * 60)
    assert log.last_words()
    log.rotate_if_big()
    append(log, "after")
    assert log.last_words() == "after"


def test_the_problem_is_the_last_error_else_the_last_line(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "edge")
    log.begin_run()
    assert log.last_problem() == ""
    append(log, "one\ntwo\n")
    assert log.last_problem() == "two"
    append(log, '{"level": "error", "text": "the port is taken"}\n{"level": "info", "text": "bye"}\n{"half')
    assert log.last_problem() == "the port is taken"


def test_advice_does_not_hide_why_a_command_ended(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "edge")
    append(log, "starting\ntwd: the broker is away\n     Start it again.\n")
    assert log.last_problem() == "the broker is away"
    append(log, '{"level": "error", "text": "the port is taken"}\n')
    assert log.last_problem() == "the port is taken"


def test_a_crash_is_told_by_its_kind_and_place_and_not_by_the_end_of_its_stacks(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "speculator")
    append(log, '{"level": "error", "text": "it was slow"}\nFatal Python error: Segmentation fault\n\n')
    append(log, 'Thread 0x00007f4a (most recent call first):\n  File "/a/engine/context.py", line 176 in decode\n')
    append(log, '  File "/a/engine/cost.py", line 126 in _pass\n' * 100 + "\nExtension modules: numpy (total: 1)\n")
    assert log.last_problem() == "Segmentation fault in decode, context.py line 176"
    log.begin_run()
    append(log, '{"level": "error", "text": "the port is taken"}\n')
    assert log.last_problem() == "the port is taken"


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "edge")
    assert (log.size, log.last_words(), log.last_problem()) == (0, "", "")


def test_a_log_that_cannot_be_copied_stays_as_it_is_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    log = LogFile(tmp_path, "edge", max_bytes=1)
    append(log, "words")
    with monkeypatch.context() as full, caplog.at_level(logging.WARNING):
        full.setattr(shutil, "copyfile", half)
        assert not log.rotate_if_big()
        assert not log.rotate_if_big()
    assert [path.name for path in tmp_path.iterdir()] == ["edge.log"]
    assert log.path.read_text() == "words"
    assert len(caplog.messages) == 1
    assert "No space left on device; make room" in caplog.text
    assert log.rotate_if_big()


def test_a_line_that_the_disk_does_not_take_is_no_error(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "edge")
    log.path.mkdir()
    log.add("words")
    assert log.last_words() == ""
