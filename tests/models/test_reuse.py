"""What is on this machine already: whole copies, and tensors of other models."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.models.reuse import Copying, LocalRange, covered_units, take_local, take_units, tensor_stretches
from twd.models.stores import ModelStore, StoredModel, all_models, stores_here, whole_copies
from twd.pieces.checks import Checks
from twd.pieces.making import make_manifest
from twd.pieces.manifest import Manifest, write_manifest
from twd.pieces.names import manifest_of
from twd.pieces.partial import PartialFile
from twd.pieces.tree import UNIT

ROWS = 300_000
"""Numbers of each large tensor: about 1.2 MB."""


def model(path: Path, template: str = "", *, seed: int = 1, layers: int = 8, kind: type = np.float32) -> Manifest:
    """A model whose tensors depend on the seed alone, and its manifest."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_string("tokenizer.chat_template", template)
    dice = np.random.default_rng(seed)
    for layer in range(layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", dice.random(64, np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", dice.random(ROWS, np.float32).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return make_manifest(path)


def taken_from(tmp_path: Path, manifest: Manifest, folder: Path) -> tuple[PartialFile, list[str]]:
    sources: list[str] = []
    file = PartialFile(tmp_path / "wanted.gguf", manifest.name, Checks.of(manifest))
    take_local(file, manifest, [ModelStore("here", folder)], Copying(lambda index, store: sources.append(store)))
    return file, sources


@pytest.mark.parametrize("with_manifest", [True, False])
def test_of_a_changed_template_only_the_header_is_missing(tmp_path: Path, with_manifest: bool) -> None:
    old, new = tmp_path / "store/old.gguf", tmp_path / "new.gguf"
    old.parent.mkdir()
    known = model(old, "short")
    if with_manifest:
        write_manifest(manifest_of(old), known)
    wanted = model(new, "a longer template " * 77)
    file, sources = taken_from(tmp_path, wanted, old.parent)
    assert set(sources) == {"here"}
    assert list(file.missing()) == [0]
    data = new.read_bytes()
    for index in file.have:
        begin, length = file.checks.place(index)
        assert file.read(begin, length) == data[begin : begin + length]
    file.close()


def test_another_model_of_the_same_shape_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    model(tmp_path / "store/other.gguf", seed=2)
    file, sources = taken_from(tmp_path, model(tmp_path / "new.gguf"), tmp_path / "store")
    assert sources == []
    assert file.have.count == 0
    file.close()


def test_a_copy_that_is_right_in_part_gives_that_part(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    wanted = model(tmp_path / "new.gguf")
    spoiled = bytearray((tmp_path / "new.gguf").read_bytes())
    spoiled[3 * UNIT + 5] ^= 1
    (tmp_path / "store/copy.gguf").write_bytes(spoiled)
    file, _ = taken_from(tmp_path, wanted, tmp_path / "store")
    assert list(file.missing()) == [3]
    file.close()


def test_broken_models_are_passed_by(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    wanted = model(tmp_path / "new.gguf")
    (tmp_path / "store/cut.gguf").write_bytes((tmp_path / "new.gguf").read_bytes()[:5000])
    (tmp_path / "store/none.gguf").write_bytes(b"")
    (tmp_path / "store/folder.gguf").mkdir()
    (tmp_path / "store/gone.gguf").symlink_to("nowhere")
    file, sources = taken_from(tmp_path, wanted, tmp_path / "store")
    assert sources == []
    file.close()


def test_where_the_system_copies_nothing_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", cannot)
    (tmp_path / "store").mkdir()
    wanted = model(tmp_path / "store/copy.gguf")
    file, _ = taken_from(tmp_path, wanted, tmp_path / "store")
    assert file.have.complete
    file.finish()
    assert (tmp_path / "wanted.gguf").read_bytes() == (tmp_path / "store/copy.gguf").read_bytes()


def test_units_get_their_hashes_from_a_copy_where_nobody_told_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * UNIT + 7))
    file = PartialFile(tmp_path / "wanted", "hub", Checks.unknown(2 * UNIT + 7))
    stretch = LocalRange(0, 2 * UNIT + 7, 0, source, "here")
    take_units(file, [stretch], Copying())
    assert file.have.count == 0
    take_units(file, [stretch], Copying(), define=True)
    assert file.have.complete
    assert file.checks.digests == Checks.of(make_manifest(source)).digests
    file.close()


def test_copying_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    wanted = model(tmp_path / "store/copy.gguf")
    file = PartialFile(tmp_path / "wanted.gguf", wanted.name, Checks.of(wanted))
    store = [ModelStore("here", tmp_path / "store")]
    take_local(file, wanted, store, Copying(stopped=lambda: file.have.count >= 3))
    assert file.have.count == 3
    file.close()


@given(
    size=st.integers(1, 40 * UNIT),
    cuts=st.lists(st.tuples(st.integers(0, 40 * UNIT), st.integers(1, 9 * UNIT)), max_size=8),
)
def test_covered_units_are_made_of_stretches_and_padding(size: int, cuts: list[tuple[int, int]]) -> None:
    stretches, at = [], 0
    for begin, length in sorted(cuts):
        begin, end = max(at, begin), min(size, max(at, begin) + length)
        if begin < end:
            stretches.append(LocalRange(begin, end, begin + 5, Path("x"), "x"))
            at = end
    checks = Checks.unknown(size)
    for index, parts in covered_units(checks, stretches):
        begin, length = checks.place(index)
        assert all(begin <= one.begin < one.end <= begin + length and one.offset == one.begin + 5 for one in parts)
        held = sum(one.end - one.begin for one in parts)
        assert length - held <= 4096 * (len(parts) + 1)
    whole = {index for index, _ in covered_units(checks, [LocalRange(0, size, 0, Path("x"), "x")])}
    assert whole == set(range(len(checks)))


def test_the_stores_of_other_programs(tmp_path: Path) -> None:
    for folder in ("own", ".ollama/models/blobs", "hf/hub", ".lmstudio/models", "lm/models", "llama"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".lmstudio-home-pointer").write_text(str(tmp_path / "lm"))
    variables = {"HF_HOME": str(tmp_path / "hf"), "LLAMA_CACHE": str(tmp_path / "llama")}
    found = stores_here(variables, tmp_path, [tmp_path / "own", tmp_path / "own", tmp_path / "none"])
    folders = [one.folder.relative_to(tmp_path).as_posix() for one in found if one.folder.is_relative_to(tmp_path)]
    assert folders == ["own", "hf/hub", ".ollama/models/blobs", "llama", "lm/models", ".lmstudio/models"]
    assert stores_here({"HF_ENDPOINT": "nonsense"}, tmp_path)


def test_models_without_a_name_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "sha256-1").write_bytes(b"GGUF and so on")
    (blobs / "sha256-2").write_bytes(b"{{ .Prompt }}")
    store = ModelStore("Ollama's store", blobs, by_hash=True)
    assert list(all_models([store])) == [StoredModel("Ollama's store", blobs / "sha256-1")]
    assert whole_copies([store], "1", 14) == [StoredModel("Ollama's store", blobs / "sha256-1")]
    assert whole_copies([store], "1", 15) == []
    assert tensor_stretches([], all_models([store])) == []
