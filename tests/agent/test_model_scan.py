"""Models on disk: found within bounds, read once, named with what is wrong."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny_models import write_llama
from twd.agent import model_scan
from twd.agent.model_scan import ModelScan, is_first_part, sha256_of
from twd.gguf_tools.model_file import quick_hash, read_model
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import ModelFile


def test_models_are_found_with_what_they_are(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    write_llama(deep / "tiny.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    (tmp_path / ".hidden.gguf").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    scan = ModelScan((tmp_path, tmp_path / "missing"))
    tiny, broken = scan.scan()
    assert (tiny.name, tiny.architecture, tiny.layers, tiny.problem) == ("tiny", "llama", 2, "")
    assert len(tiny.hash) == 32
    assert broken.problem
    assert "is no folder" in scan.notes[0]


def test_models_that_the_settings_name_are_found_wherever_they_are(tmp_path: Path) -> None:
    named = write_llama(tmp_path / "named.gguf")
    (tmp_path / "folder").mkdir()
    listed = write_llama(tmp_path / "folder" / "listed.gguf")
    scan = ModelScan((tmp_path / "folder",), (named, listed, tmp_path / "gone.gguf", tmp_path / "folder"))
    assert [model.path for model in scan.scan()] == [str(listed), str(named)]
    assert not scan.notes


def test_a_folder_that_nobody_may_enter_is_told_and_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, ask = tmp_path / "closed" / "models", os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(path).startswith(str(closed)):  # root may enter all
            raise PermissionError(13, "Permission denied", str(path))
        return ask(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    scan = ModelScan((closed,), (closed / "tiny.gguf",))
    assert scan.scan() == []
    assert [note for note in scan.notes if "may not be entered" in note]


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    read: list[Path] = []

    def noted(path: Path) -> ModelFile:
        read.append(path)
        return read_model(path)

    monkeypatch.setattr(model_scan, "read_model", noted)
    scan = ModelScan((tmp_path,))
    assert scan.scan() == scan.scan()
    assert read == [path]
    os.utime(path, ns=(1, 1))
    scan.scan()
    assert read == [path, path]
    path.unlink()
    assert scan.scan() == []


def test_the_search_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_scan, "MODELS_MAX", 2)
    monkeypatch.setattr(model_scan, "DEPTH_MAX", 1)
    deep = tmp_path / "1" / "2"
    deep.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "1", deep):
        for name in "ab":
            (folder / f"{name}.gguf").write_bytes(b"x")
    scan = ModelScan((tmp_path,))
    assert len(scan.scan()) == 2
    assert "4 models" in scan.notes[0]
    monkeypatch.setattr(model_scan, "ENTRIES_MAX", 1)
    scan.scan()
    assert "more than 1 files" in scan.notes[0]


def test_of_a_model_in_parts_the_first_counts() -> None:
    names = ("m.gguf", "m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "one-of-us.gguf", "m.bin")
    assert [is_first_part(name) for name in names] == [True, True, False, True, False]


def test_copies_agree_and_others_differ(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in "abc")
    data = os.urandom(3 * 1024 * 1024)
    one.write_bytes(data)
    copy.write_bytes(data)
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert quick_hash(one) == quick_hash(copy) != quick_hash(other)
    assert sha256_of(one) == sha256_of(copy) != sha256_of(other)


def test_the_whole_digest_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    scan = ModelScan((tmp_path,))
    scan.scan()
    assert scan.full_digest(scan.find("tiny")) == scan.full_digest(path) == sha256_of(path)
    with pytest.raises(TwdError) as told:
        scan.find("../etc/passwd")
    assert told.value.code is FailureCode.MODEL_NOT_FOUND


def test_what_cannot_be_read_or_told_of_is_left_out_with_a_note(tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").symlink_to(tmp_path)
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nothing")
    (tmp_path / os.fsdecode(b"caf\xe9.gguf")).touch()
    scan = ModelScan((tmp_path,))
    assert [model.name for model in scan.scan()] == ["tiny"]
    told = "\n".join(scan.notes).encode().decode()
    assert "caf\\udce9.gguf is left out: its name is no UTF-8" in told
    assert "pipe.gguf is left out: it is no file" in told
    assert len(scan.notes) == 2, "a link to a folder is a folder, and one to nothing is nothing"


def test_a_model_is_never_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "-00001-of-00002.gguf").touch()
    assert [model.name for model in ModelScan((tmp_path,)).scan()] == ["-00001-of-00002"]
