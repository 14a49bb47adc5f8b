"""What a model says of itself: sizes by layer, KV cache, shards, and files that are something else."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from twd.gguf_tools.constants import GGMLQuantizationType
from twd.gguf_tools.header import BrokenGguf, TensorInfo
from twd.gguf_tools.inspect import floats, inspect

LAYERS = 3


def write(path: Path, *, tensors: bool = True, kind: str = "model", layers_claimed: int = LAYERS) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(kind)
    writer.add_block_count(layers_claimed)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_chat_template("{{ messages }}")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "c"])
    if tensors:
        writer.add_tensor("token_embd.weight", np.zeros((3, 64), np.float16))
        for layer in range(LAYERS):
            writer.add_tensor(f"blk.{layer}.attn_q.weight", np.zeros((64, 64), np.float16))
            writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_facts_of_a_model(tmp_path: Path) -> None:
    info = inspect(write(tmp_path / "model.gguf"))
    assert (info.architecture, info.layers, info.embedding, info.heads, info.kv_heads) == ("llama", 3, 64, 4, 2)
    assert (info.context_length, info.vocabulary, info.tokenizer) == (2048, 3, "gpt2")
    assert info.chat_template == "{{ messages }}"
    assert info.quantization == "F16"
    assert info.layer_bytes == [64 * 64 * 2 + 64 * 4] * LAYERS
    assert info.other_bytes == 3 * 64 * 2
    assert info.weight_bytes == sum(info.layer_bytes) + info.other_bytes
    assert info.parameters == 3 * 64 + LAYERS * (64 * 64 + 64)


def test_kv_bytes_follow_heads_and_types(tmp_path: Path) -> None:
    info = inspect(write(tmp_path / "model.gguf"))
    assert info.kv_bytes_per_token() == LAYERS * 2 * (2 * 16 * 2)
    assert info.kv_bytes_per_token("f16", "q8_0") == LAYERS * (2 * 16 * 2 + 34)


@pytest.mark.parametrize("key", ["context_length", "block_count", "attention.head_count_kv"])
@pytest.mark.parametrize("told", [(5, "<i", -1), (6, "<f", float("inf")), (6, "<f", float("nan"))])
def test_sizes_that_are_none_make_a_broken_file(key: str, told: tuple[int, str, float], tmp_path: Path) -> None:
    kind, layout, value = told
    path = write(tmp_path / "odd.gguf")
    data = bytearray(path.read_bytes())
    at = data.index(key.encode()) + len(key)
    data[at : at + 8] = struct.pack("<I", kind) + struct.pack(layout, value)
    path.write_bytes(data)
    with pytest.raises(BrokenGguf, match="fetch it again"):
        inspect(path)


def test_things_that_are_no_model(tmp_path: Path) -> None:
    for path, words in (
        (write(tmp_path / "adapter.gguf", kind="adapter"), "adapter"),
        (write(tmp_path / "vocabulary.gguf", tensors=False), "no weights"),
        (write(tmp_path / "boasting.gguf", layers_claimed=2**31), "claims 2147483648 layers"),
    ):
        with pytest.raises(BrokenGguf, match=words):
            inspect(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("inf")], -5, 2**63 - 1])
def test_a_count_that_is_none_is_a_typed_failure(value: float | list[float], tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((3, 64), np.float16))
    match value:
        case int():
            writer.add_key_value("llama.context_length", value, gguf.GGUFValueType.INT64)
        case float():
            writer.add_float32("llama.context_length", value)
        case list():
            writer.add_array("llama.context_length", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BrokenGguf, match=r"llama\.context_length.* is "):
        inspect(tmp_path / "odd.gguf")


def test_arrays_of_arrays_tell_no_number(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "nested.gguf", "llama")
    writer.add_array("llama.attention.head_count", [[1, 2], [3, 4]])
    writer.add_tensor("token_embd.weight", np.zeros((3, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert inspect(tmp_path / "nested.gguf").heads == 0


def test_the_first_of_no_parts_is_a_file_like_any_other(tmp_path: Path) -> None:
    assert inspect(write(tmp_path / "odd-00001-of-00000.gguf")).layers == LAYERS


def test_shards_are_found_and_summed(tmp_path: Path) -> None:
    first = write(tmp_path / "big-00001-of-00002.gguf")
    with pytest.raises(BrokenGguf, match="big-00002"):
        inspect(first)
    second = write(tmp_path / "big-00002-of-00002.gguf")
    info = inspect(first)
    assert info.shards == [first, second]
    assert info.size_bytes == first.stat().st_size + second.stat().st_size
    with pytest.raises(BrokenGguf, match="name the first one"):
        inspect(second)


def of_floats(name: str) -> TensorInfo:
    return TensorInfo(name, (4, 2048), GGMLQuantizationType.F32, 0, 4 * 4 * 2048)


@pytest.mark.parametrize(
    "part", ["ssm_x", "ssm_dt", "ssm_in", "ssm_alpha", "shortconv.in_proj", "time_mix_w1", "attn_q"]
)
def test_float_matrices_are_those_that_passes_multiply_by(part: str) -> None:
    matrix = of_floats(f"blk.3.{part}.weight")
    assert floats([matrix]) == [matrix]


@pytest.mark.parametrize(
    "name",
    [
        *("ssm_a", "ssm_d", "ssm_norm.weight", "ssm_conv1d.weight", "ssm_conv1d_q.weight", "shortconv.conv.weight"),
        *("time_mix_first.weight", "time_mix_lerp_x.weight", "time_mix_lerp_fused.weight", "time_mix_r_k.weight"),
        "attn_q_norm.weight",
    ],
)
def test_what_a_state_is_scanned_with_is_no_float_matrix(name: str) -> None:
    assert not floats([of_floats(f"blk.3.{name}")])
