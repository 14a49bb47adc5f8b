"""Reading headers: what was written comes back, and no broken file gets through or crashes the reader."""

import contextlib
import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from twd.gguf_tools.header import FIELDS_MAX, ITEMS_MAX, NUMBERS_MAX, TENSORS_MAX, BrokenGguf, read_header
from twd.wire.failures import FailureCode

COUNTS = st.tuples(*[st.sampled_from([0, 1, 2**64 - 1]) | st.integers(0, 2**64 - 1)] * 2)


def write(path: Path, tokens: int = 50) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a small one")
    writer.add_block_count(1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 0.5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_token_list([f"tök{number}" for number in range(tokens)])
    writer.add_array("llama.attention.head_count", [4, 8, 2])
    writer.add_tensor("token_embd.weight", np.zeros((tokens, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((64, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf")


def test_everything_comes_back(small: Path) -> None:
    header = read_header(small)
    assert header.version == 3
    assert header.text("general.name") == "a small one"
    assert header.number("llama.block_count") == 1
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == 0.5
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.array("tokenizer.ggml.tokens")[:2] == ["tök0", "tök1"]
    embedding, query = header.tensors
    assert (embedding.name, embedding.shape, embedding.kind) == (
        "token_embd.weight",
        (64, 50),
        GGMLQuantizationType.F32,
    )
    assert (query.elements, query.size_bytes) == (4096, 8192)
    assert header.bytes_expected <= header.file_bytes == small.stat().st_size


def test_fields_that_are_missing_or_of_another_type(small: Path) -> None:
    header = read_header(small)
    assert header.text("no.such") == header.text("llama.block_count") == ""
    assert header.number("no.such", 7) == 7
    assert header.number("general.name", 3) == 3
    assert header.number("llama.attention.head_count") == 8
    assert header.array("general.name") == []


def test_it_agrees_with_the_gguf_package(small: Path) -> None:
    ours, theirs = read_header(small), gguf.GGUFReader(small)
    assert {tensor.name: (tensor.offset + ours.data_offset, tensor.size_bytes) for tensor in ours.tensors} == {
        tensor.name: (tensor.data_offset, tensor.n_bytes) for tensor in theirs.tensors
    }
    assert set(ours.metadata) == {name for name in theirs.fields if not name.startswith("GGUF.")}


@examples(150)
@given(share=st.floats(0.0, 0.999))
def test_no_cut_goes_unnoticed(small: Path, tmp_path: Path, share: float) -> None:
    whole = small.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BrokenGguf) as caught:
        read_header(path)
    assert caught.value.code is FailureCode.MODEL_LOAD


@examples(300)
@given(data=st.data())
def test_flipped_bytes_never_crash_the_reader(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(small.read_bytes())
    header_end = read_header(small).data_offset
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "flipped.gguf"
    path.write_bytes(content)
    with contextlib.suppress(BrokenGguf):
        read_header(path)


@examples(100)
@given(noise=st.binary(max_size=400), version=st.sampled_from([0, 1, 2, 3, 9]), counts=COUNTS)
def test_noise_behind_the_magic_never_crashes_the_reader(
    tmp_path: Path, noise: bytes, version: int, counts: tuple[int, int]
) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, *counts) + noise)
    with contextlib.suppress(BrokenGguf):
        assert len(read_header(path).tensors) == counts[0]


def test_a_missing_folder_an_empty_file_a_folder_and_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    os.mkfifo(tmp_path / "pipe.gguf")
    for path, words in (
        (tmp_path / "x" / "y", "no such file"),
        (tmp_path, "folder"),
        (tmp_path / "empty.gguf", "empty"),
        (tmp_path / "pipe.gguf", "is a pipe"),
    ):
        with pytest.raises(BrokenGguf, match=words):
            read_header(path)


def header_of(fields: int, tensors: int, body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + body


def sparse(path: Path, start: bytes, size: int) -> Path:
    """A file that is as long as it claims and takes no room on the disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def array_field(key: bytes, kind: int, length: int) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, kind, length)


@pytest.mark.parametrize(
    ("start", "size", "why"),
    [
        (header_of(FIELDS_MAX + 1, 0, b""), 1 << 30, "fields"),
        (header_of(0, TENSORS_MAX + 1, b""), 1 << 30, "tensors"),
        (header_of(1, 0, array_field(b"tokenizer.ggml.tokens", 8, ITEMS_MAX + 1)), 1 << 30, "strings"),
        (header_of(1, 0, array_field(b"a", 9, ITEMS_MAX + 1)), 1 << 30, "arrays"),
        (header_of(1, 0, struct.pack("<Q", 70_000)), 1 << 20, "bytes of text"),
        (header_of(1, 0, struct.pack("<Q", 1) + b"a" + struct.pack("<IQ", 8, 1 << 29)), 1 << 30, "bytes of text"),
    ],
)
def test_counts_are_bounded_before_anything_is_read(tmp_path: Path, start: bytes, size: int, why: str) -> None:
    with pytest.raises(BrokenGguf, match=f"more than|{why}"):
        read_header(sparse(tmp_path / "huge.gguf", start, size))


def test_many_small_arrays_of_strings_count_together(tmp_path: Path) -> None:
    each = ITEMS_MAX // 4
    strings = bytes(8 * each)
    body = b"".join(array_field(b"%d" % number, 8, each) + strings for number in range(5))
    with pytest.raises(BrokenGguf, match="strings"):
        read_header(sparse(tmp_path / "many.gguf", header_of(5, 0, body), 1 << 26))


@pytest.mark.parametrize("length", [NUMBERS_MAX + 1, 1 << 29])
def test_no_number_is_made_of_a_huge_array(tmp_path: Path, length: int) -> None:
    start = header_of(1, 0, array_field(b"llama.block_count", 0, length))
    header = read_header(sparse(tmp_path / "huge.gguf", start, 1 << 30))
    with pytest.raises(BrokenGguf, match="elements"):
        header.number("llama.block_count")
    if length > ITEMS_MAX:
        with pytest.raises(BrokenGguf, match="elements"):
            header.array("llama.block_count")
