"""Manifests: made in one pass, and believed only where they contradict nothing."""

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from twd.pieces.making import known_manifest, make_manifest, manifest_for
from twd.pieces.manifest import (
    Manifest,
    check_piece_size,
    encode_manifest,
    load_manifest,
    read_manifest,
    write_manifest,
)
from twd.pieces.names import manifest_of
from twd.pieces.tree import UNIT
from twd.wire.failures import TwdError

SIZE = 2 * UNIT + 77


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_a_manifest_has_every_hash(file: Path) -> None:
    made = make_manifest(file, UNIT)
    data = file.read_bytes()
    assert made.sha256 == hashlib.sha256(data).hexdigest()
    assert [piece.sha256 for piece in made.pieces] == [
        hashlib.sha256(data[at : at + UNIT]).hexdigest() for at in range(0, SIZE, UNIT)
    ]
    assert (made.filename, made.total_size, made.piece_size) == ("model.bin", SIZE, UNIT)
    assert read_manifest(encode_manifest(made)) == made


def test_it_is_remembered_until_the_file_changes(file: Path) -> None:
    made = manifest_for(file, UNIT)
    assert known_manifest(file) == made == manifest_for(file)
    later = manifest_of(file).stat().st_mtime_ns + 10**9
    with file.open("r+b") as changed:
        changed.seek(UNIT)
        changed.write(b"other")
    os.utime(file, ns=(later, later))
    assert known_manifest(file) is None
    assert manifest_for(file).root != made.root


def changed(file: Path, **fields: Any) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(make_manifest(file, UNIT)), **fields})


TENSOR = {"name": "a", "offset": 0, "size": 100, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"filename": "../../etc/passwd"}, "plain file name"),
        ({"filename": "/etc/passwd"}, "plain file name"),
        ({"filename": "a\\b"}, "plain file name"),
        ({"filename": ".."}, "plain file name"),
        ({"filename": ""}, "plain file name"),
        ({"filename": "a\nb"}, "plain file name"),
        ({"filename": "x" * 300}, "plain file name"),
        ({"shards": [{"filename": "../x", "size": 1}]}, "plain file name"),
        ({"total_size": 1 << 60}, "total_size"),
        ({"total_size": 0}, "total_size"),
        ({"total_size": -1}, "total_size"),
        ({"total_size": SIZE * 1000}, "its size needs"),
        ({"root": "0" * 64}, "root"),
        ({"layer": "00" * 32}, "hashes"),
        ({"layer": "zz"}, "hexadecimal"),
        ({"pieces": []}, ""),
        ({"pieces": [], "root": "", "layer": ""}, "neither"),
        ({"piece_size": 48 * UNIT}, "pieces"),
        ({"tensors": [TENSOR, {**TENSOR, "name": "b", "offset": 99}]}, "overlaps"),
        ({"tensors": [{**TENSOR, "offset": SIZE}]}, "behind the end"),
        ({"sha256": "short"}, "sha256"),
    ],
)
def test_what_contradicts_itself_is_refused(file: Path, fields: dict[str, Any], cause: str) -> None:
    data = changed(file, **fields)
    if not cause:
        assert read_manifest(data).root
        return
    with pytest.raises(TwdError, match=cause):
        read_manifest(data)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"<html>", b'{"filename": 3}', b"[" * 100_000])
def test_nonsense_is_refused_with_a_cause(data: bytes) -> None:
    with pytest.raises(TwdError, match="manifest cannot be used"):
        read_manifest(data)


def test_an_older_manifest_of_pieces_alone_is_read(file: Path) -> None:
    made = make_manifest(file, UNIT)
    old = {
        "model": "m",
        "filename": file.name,
        "total_size": SIZE,
        "piece_size": UNIT,
        "pieces": [msgspec.to_builtins(piece) for piece in made.pieces],
        "metadata": {"arch": "llama"},
        "created_at": 1.5,
    }
    read = read_manifest(msgspec.json.encode(old))
    assert not read.root
    assert len(read.name) == 64


@pytest.mark.parametrize("mib", [0, 3, 48, 65, -4])
def test_a_piece_size_that_is_no_power_of_two_is_refused(mib: int) -> None:
    with pytest.raises(TwdError, match="no power of two; take"):
        check_piece_size(mib)


def test_an_empty_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, cause in ((tmp_path / "empty", "empty"), (tmp_path, "folder"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(TwdError, match=cause):
            make_manifest(path)


def test_a_manifest_is_written_and_loaded(file: Path) -> None:
    made: Manifest = make_manifest(file)
    write_manifest(manifest_of(file), made)
    assert load_manifest(manifest_of(file)) == made
