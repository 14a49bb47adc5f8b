"""History on disk: it survives, it is bounded, and what is broken in it is put aside."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics.told import finished
from tests.properties import examples
from twd.metrics.job_log import FILE_NAME, JobLog
from twd.wire.codec import encode


def line(number: int) -> bytes:
    return encode(finished(f"j{number}"))


def jobs(log: JobLog) -> list[str]:
    return [end.job for end in log.ends]


def loaded(folder: Path, keep: int = 10) -> JobLog:
    log = JobLog(folder, keep)
    log.load()
    return log


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    log = loaded(tmp_path / "history")
    for number in range(3):
        log.append(line(number))
    assert jobs(loaded(tmp_path / "history")) == ["j0", "j1", "j2"]
    assert log.file.stat().st_mode & 0o777 == 0o600
    assert log.file.parent.stat().st_mode & 0o777 == 0o700


def test_the_file_is_bounded(tmp_path: Path) -> None:
    log = loaded(tmp_path, keep=5)
    for number in range(100):
        log.append(line(number))
        assert len(log.file.read_bytes().splitlines()) <= 10
    assert jobs(loaded(tmp_path, keep=5)) == ["j95", "j96", "j97", "j98", "j99"]
    assert jobs(loaded(tmp_path, keep=1)) == ["j99"]


def test_what_ends_together_is_written_together(tmp_path: Path) -> None:
    log = loaded(tmp_path, keep=5)
    for number in range(0, 99, 3):
        log.append(line(number), line(number + 1), line(number + 2))
        assert len(log.file.read_bytes().splitlines()) <= 10
    log.append()
    assert jobs(loaded(tmp_path, keep=5)) == ["j94", "j95", "j96", "j97", "j98"]
    log.append(*[line(number) for number in range(100, 150)])
    assert jobs(loaded(tmp_path, keep=5)) == ["j145", "j146", "j147", "j148", "j149"]


def test_nothing_is_kept_where_nothing_is_wanted(tmp_path: Path) -> None:
    log = loaded(tmp_path, keep=0)
    log.append(line(1))
    assert not log.file.exists()
    loaded(tmp_path, keep=5).append(line(1))
    assert jobs(loaded(tmp_path, keep=0)) == []
    assert log.file.read_bytes() == b""


def test_broken_lines_are_put_aside(tmp_path: Path) -> None:
    whole = line(1)
    bad = [b"{", b"\xff\xfe", b'{"type":"twd.v1.session.closed","job":"j","session":"s"}', whole[: len(whole) // 2]]
    for turn in (1, 2):
        (tmp_path / FILE_NAME).write_bytes(b"\n".join([whole, *bad[:3], line(2), bad[3]]))
        log = JobLog(tmp_path, 10)
        words = log.load()
        assert "4 lines" in words
        assert f"{FILE_NAME}.bad-{turn}" in words
        assert jobs(log) == ["j1", "j2"]
        assert (tmp_path / f"{FILE_NAME}.bad-{turn}").read_bytes() == b"\n".join(bad) + b"\n"
        assert JobLog(tmp_path, 10).load() == ""


def test_a_line_cut_by_a_crash_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(line(1) + b"\n" + line(2)[:20])
    log = loaded(tmp_path)
    log.append(line(3))
    assert jobs(loaded(tmp_path)) == ["j1", "j3"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("a file")
    with pytest.raises(OSError):
        JobLog(tmp_path / "history", 5).load()


@examples(50)
@given(st.binary(max_size=400))
def test_any_file_can_be_loaded(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("history")
    (folder / FILE_NAME).write_bytes(data + b"\n" + line(7) + b"\n")
    assert jobs(loaded(folder)) == ["j7"]
    assert JobLog(folder, 10).load() == ""
