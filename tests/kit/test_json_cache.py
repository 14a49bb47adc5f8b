"""What was found out is found again, and what cannot be kept or read does no harm."""

from pathlib import Path

import msgspec
import pytest

from twd.kit.json_cache import file_name, recall, remember


class Found(msgspec.Struct):
    """Something worth keeping."""

    text: str


def test_it_is_found_again_under_the_same_circumstances(tmp_path: Path) -> None:
    path = tmp_path / "new" / file_name("found", ("a", 1))
    assert recall(path, Found) is None
    remember(path, Found("x"))
    assert recall(tmp_path / "new" / file_name("found", ("a", 1)), Found) == Found("x")
    assert recall(tmp_path / "new" / file_name("found", ("a", 2)), Found) is None
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("junk", [b"", b"{", b"{}", b"\xff\xfe", b'{"text": "\xff"}', b'{"text": 1}'])
def test_junk_is_nothing(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "found.json"
    path.write_bytes(junk)
    assert recall(path, Found) is None


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    remember(tmp_path / "file" / "found.json", Found("x"))
    assert recall(tmp_path / "file" / "found.json", Found) is None
