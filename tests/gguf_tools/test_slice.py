"""Slices on disk: what they hold, what is refused, and that a failure leaves nothing behind."""

import errno
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.sliceable_models import write_sliceable
from tests.engine.slices.recipes import recipe
from tests.engine.tiny_transformer import LAYERS, VOCABULARY
from tests.split_models import split
from twd.gguf_tools import slice_table
from twd.gguf_tools.header import GgufHeader, read_header
from twd.gguf_tools.model_file import file_hash
from twd.gguf_tools.slice import DiskFull, plan_slice, read_cuts, write_slice
from twd.gguf_tools.slice_layout import read_facts
from twd.gguf_tools.slice_table import RULES
from twd.wire.failures import FailureCode, TwdError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sliceable("llama", tmp_path_factory.mktemp("model"))


def cut(model: Path, first: int, end: int, folder: Path, *, head: bool = False) -> GgufHeader:
    return read_header(write_slice(model, first, end, folder / "slice.gguf", head=head).path)


def weights(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def test_the_middle_has_its_layers_a_zero_layer_and_a_small_vocabulary(model: Path, tmp_path: Path) -> None:
    header = cut(model, 3, 5, tmp_path)
    facts = read_facts(header.metadata)
    assert facts is not None
    assert (facts.first, facts.end, facts.layers, facts.head, facts.tail, facts.floats) == (3, 5, 8, False, True, True)
    assert facts.model == file_hash(model)
    assert header.number("llama.block_count") == 3
    assert header.number("llama.vocab_size") == 32
    assert header.text("tokenizer.ggml.model") == "no_vocab"
    whole, found = weights(model), weights(tmp_path / "slice.gguf")
    for name in ("attn_q.weight", "ffn_down.weight", "attn_norm.weight"):
        assert np.array_equal(found[f"blk.0.{name}"], whole[f"blk.3.{name}"])
        assert np.array_equal(found[f"blk.1.{name}"], whole[f"blk.4.{name}"])
        assert not found[f"blk.2.{name}"].any()
    assert "blk.3.attn_q.weight" not in found
    assert found["output.weight"].shape[0] == 32
    assert not found["output.weight"].any()
    assert np.array_equal(found["rope_freqs.weight"], whole["rope_freqs.weight"])


def test_the_ends_have_what_only_they_need(model: Path, tmp_path: Path) -> None:
    whole = weights(model)
    cut(model, 0, 2, tmp_path)
    first = weights(tmp_path / "slice.gguf")
    assert np.array_equal(first["token_embd.weight"], whole["token_embd.weight"])
    assert not first["output.weight"].any()
    header = cut(model, 6, LAYERS, tmp_path, head=True)
    last = weights(tmp_path / "slice.gguf")
    assert np.array_equal(last["output.weight"], whole["output.weight"])
    assert not last["token_embd.weight"].any()
    assert header.number("llama.vocab_size") == VOCABULARY
    assert header.number("llama.block_count") == 2


def test_a_tied_embedding_goes_to_both_ends(tmp_path: Path) -> None:
    model = write_sliceable("qwen2", tmp_path)
    cut(model, LAYERS, LAYERS, tmp_path, head=True)
    alone = weights(tmp_path / "slice.gguf")
    assert np.array_equal(alone["token_embd.weight"], weights(model)["token_embd.weight"])
    assert "output.weight" not in alone
    assert not alone["blk.0.attn_q.weight"].any()


def test_layer_by_layer_fields_are_cut_too(tmp_path: Path) -> None:
    model = write_sliceable("gpt-oss", tmp_path)
    header = cut(model, 3, 6, tmp_path)
    assert header.array("gpt-oss.attention.sliding_window_pattern") == [0, 1, 0, 0]
    model = write_sliceable("deepseek2", tmp_path)
    leads = [
        cut(model, a, b, tmp_path).number("deepseek2.leading_dense_block_count") for a, b in ((0, 1), (1, 4), (4, 6))
    ]
    assert leads == [1, 1, 0]
    model = write_sliceable("granite", tmp_path)
    scales = [cut(model, a, b, tmp_path).metadata["granite.embedding_scale"] for a, b in ((0, 2), (2, 4))]
    assert scales == [12.0, 1.0]


@given(cuts=st.sets(st.integers(1, LAYERS - 1)), alone=st.booleans())
def test_however_it_is_cut_every_weight_is_in_one_slice(cuts: set[int], alone: bool, model: Path) -> None:
    borders = [0, *sorted(cuts), LAYERS, *([LAYERS] if alone else [])]
    pieces = list(enumerate(pairwise(borders), 1))
    layouts = [plan_slice(model, *piece, head=number == len(pieces)) for number, piece in pieces]
    places = [tensor.source.offset for layout in layouts for tensor in layout.tensors if tensor.source]
    header = read_header(model)
    for tensor in header.tensors:
        copies = places.count(header.data_offset + tensor.offset)
        assert copies == (len(layouts) if tensor.name.startswith(("output_norm", "rope_freqs")) else 1), tensor.name
    for layout in layouts:
        assert len({tensor.name for tensor in layout.tensors}) == len(layout.tensors)


def test_parts_of_a_model_are_cut_as_one(tmp_path: Path) -> None:
    whole = write_sliceable("qwen3", tmp_path)
    first, second = split(whole, tmp_path / "split", 2)
    cut(first, 2, 7, tmp_path)
    assert (
        weights(tmp_path / "slice.gguf").keys()
        == weights(write_slice(whole, 2, 7, tmp_path / "x.gguf", head=False).path).keys()
    )
    for name, values in weights(tmp_path / "slice.gguf").items():
        assert np.array_equal(values, weights(tmp_path / "x.gguf")[name])
    with pytest.raises(TwdError, match="name the first one"):
        plan_slice(second, 0, 2, head=False)


@pytest.mark.parametrize(
    ("first", "end", "head", "reason"),
    [
        (0, 9, False, "this model has 8 layers, so 0-9 is out of range"),
        (12, 13, False, "out of range"),
        (5, 5, False, "are none"),
        (3, 3, True, "a slice without layers is 8-8 with the head"),
        (6, 2, False, "are none"),
        (2, 5, True, "the head follows layer 8"),
    ],
)
def test_bad_ranges_are_refused(first: int, end: int, head: bool, reason: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(TwdError, match=reason) as caught:
        write_slice(model, first, end, tmp_path / "slice.gguf", head=head)
    assert caught.value.code is FailureCode.BAD_REQUEST
    assert not list(tmp_path.iterdir())


def rewritten(model: Path, path: Path, **fields: object) -> Path:
    """The model with further fields and tensors."""
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", fields.get("drop")):
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        if tensor.name != fields.get("without"):
            writer.add_tensor(tensor.name, np.array(tensor.data))
    for key, value in fields.get("numbers", {}).items():  # type: ignore[attr-defined]
        writer.add_uint32(key, value)
    for key, value in fields.get("arrays", {}).items():  # type: ignore[attr-defined]
        writer.add_array(key, value)
    if "tensor" in fields:
        writer.add_tensor(str(fields["tensor"]), np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"tensor": "mystery.weight"}, "it holds mystery.weight"),
        ({"tensor": "blk.8.nextn.eh_proj.weight"}, "beyond its 8 layers"),
        ({"numbers": {"llama.pooling_type": 1}}, "llama.pooling_type is not proven"),
        ({"without": "token_embd.weight"}, "it holds no embedding matrix"),
        ({"without": "token_embd.weight", "tensor": "token_embd.weight"}, "it holds no embedding matrix"),
        ({"arrays": {"llama.odd.list": [1, 2, 3]}}, "is not known to go layer by layer"),
    ],
)
def test_what_no_rule_covers_is_refused(extra: dict[str, object], reason: str, model: Path, tmp_path: Path) -> None:
    odd = rewritten(model, tmp_path / "odd.gguf", **extra)
    with pytest.raises(TwdError, match=f"{reason}.*pool.engine: rpc") as caught:
        plan_slice(odd, 0, 2, head=False)
    assert caught.value.code is FailureCode.UNSUPPORTED


def test_other_architectures_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(TwdError, match=r"minicpm3: llama.cpp scales each layer.*`pool.engine: rpc`"):
        plan_slice(recipe("minicpm3").write(tmp_path / "tiny.gguf"), 0, 1, head=False)


def test_layer_counts_with_a_meaning_of_their_own_are_refused(tmp_path: Path) -> None:
    model = write_sliceable("gemma2", tmp_path)
    odd = rewritten(model, tmp_path / "odd.gguf", drop="gemma2.block_count", numbers={"gemma2.block_count": 46})
    with pytest.raises(TwdError, match="gemma2 models of 46 layers in a way that no slice has"):
        plan_slice(odd, 0, 2, head=False)


def test_layers_that_differ_by_their_number_are_cut_where_they_may_be(tmp_path: Path) -> None:
    model = write_sliceable("smollm3", tmp_path)
    with pytest.raises(TwdError, match="begin at a multiple of 4 layers, not at 3"):
        plan_slice(model, 3, 5, head=False)
    assert plan_slice(model, 4, 5, head=False).facts.first == 4


@pytest.mark.parametrize("architecture", ["smollm3", "deepseek2", "gemma2", "llama"])
def test_what_is_planned_can_be_cut(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With some odd counts that a tiny model reaches."""
    model = write_sliceable(architecture, tmp_path)
    monkeypatch.setitem(slice_table.RULES, architecture, replace(RULES[architecture], odd_counts=frozenset({2, 5})))
    cuts = read_cuts(model)
    allowed = [piece for piece in combinations(range(LAYERS + 1), 2) if not cuts.why_not(*piece)]
    assert (0, LAYERS) in allowed
    assert len(allowed) > 3
    for first, end in allowed:
        for head in (True, False) if end == LAYERS else (False,):
            plan_slice(model, first, end, head=head)
    for first, end in set(combinations(range(LAYERS + 1), 2)) - set(allowed) if not cuts.tails else ():
        with pytest.raises(TwdError):
            plan_slice(model, first, end, head=False)


def test_no_model_at_all_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(TwdError, match="no such file"):
        plan_slice(tmp_path / "none.gguf", 0, 1, head=False)
    short = tmp_path / "short.gguf"
    short.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(TwdError, match="cut short"):
        plan_slice(short, 0, 1, head=False)
    with pytest.raises(TwdError, match="is the model itself"):
        write_slice(model, 0, 1, model, head=False)


def test_too_little_room_is_told_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    with pytest.raises(DiskFull, match=r"no room for the slice slice\.gguf"):
        write_slice(model, 0, 4, tmp_path / "slice.gguf", head=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_the_old_slice_and_nothing_half(
    code: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "slice.gguf"
    target.write_text("the old one")

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="is full"):
        write_slice(model, 0, 4, target, head=False)
    assert [path.name for path in tmp_path.iterdir()] == ["slice.gguf"]
    assert target.read_text() == "the old one"


def test_a_folder_that_cannot_be_written_is_told(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TwdError, match="cannot write"):
        write_slice(model, 0, 4, tmp_path / "file" / "slice.gguf", head=False)


def test_progress_rises_to_one(model: Path, tmp_path: Path) -> None:
    told: list[float] = []
    write_slice(model, 0, 4, tmp_path / "slice.gguf", head=False, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_slice_is_not_sliced_again_by_mistake(model: Path, tmp_path: Path) -> None:
    cut(model, 2, 6, tmp_path)
    with pytest.raises(TwdError, match="is a slice of layers 2-6 itself; name the whole model"):
        plan_slice(tmp_path / "slice.gguf", 0, 2, head=False)
