"""Fused experts to single ones and back: the same bytes, whatever the layout; and whole or not at all."""

import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.moe.mixtures import EXPERTS, write_random
from tests.properties import examples
from twd.gguf_tools.header import read_header
from twd.moe import new_file as writing
from twd.moe.convert import convert
from twd.moe.model import NotAMixture, read_mixture
from twd.wire.failures import TwdError

Usage = namedtuple("Usage", "total used free")
ODD: dict[str, dict[str, Any]] = {
    "plain": {},
    "gate_up": {"gate_up": True},
    "biases": {"biases": True},
    "shared": {"shared": True},
}


def weights(path: Path) -> dict[str, tuple[gguf.GGMLQuantizationType, np.ndarray]]:
    return {one.name: (one.tensor_type, np.array(one.data)) for one in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", ODD)
def test_there_and_back_every_byte_is_the_same(kind: str, tmp_path: Path) -> None:
    fused = write_random(tmp_path / "fused.gguf", **ODD[kind])
    single = convert(fused, tmp_path / "single.gguf", "defuse").path
    back = convert(single, tmp_path / "back.gguf", "fuse").path
    assert back.read_bytes() == fused.read_bytes()
    assert single.read_bytes() == write_random(tmp_path / "as.gguf", layout="indexed", **ODD[kind]).read_bytes()


def test_each_expert_keeps_its_values_and_type(tmp_path: Path) -> None:
    fused = write_random(tmp_path / "fused.gguf", biases=True)
    single = convert(fused, tmp_path / "single.gguf", "defuse")
    before, after = weights(fused), weights(single.path)
    kind, values = before["blk.1.ffn_down_exps.weight"]
    assert single.changed == 12
    assert single.tensors == len(after)
    for expert in range(EXPERTS):
        found_kind, found = after[f"blk.1.ffn_down.{expert}.weight"]
        assert found_kind == kind
        assert np.array_equal(found, values[expert])
    assert not any("_exps" in name for name in after)
    assert np.array_equal(after["blk.0.exp_probs_b.bias"][1], before["blk.0.exp_probs_b.bias"][1])


def test_shards_become_one_file_with_the_same_tensors(tmp_path: Path) -> None:
    whole = write_random(tmp_path / "whole.gguf", layout="indexed")
    first = write_random(tmp_path / "parts.gguf", layout="indexed", shards=3)
    assert "-00001-of-0000" in first.name
    joined = convert(first, tmp_path / "joined.gguf", "fuse").path
    alone = convert(whole, tmp_path / "alone.gguf", "fuse").path
    assert not [key for key in read_header(joined).metadata if key.startswith("split.")]
    one, other = weights(joined), weights(alone)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name][1], other[name][1]) for name in one)


def test_a_scale_for_each_expert_comes_back_as_it_was(tmp_path: Path) -> None:
    scales = {"blk.0.ffn_up_exps.scale": np.arange(EXPERTS, dtype=np.float32)}
    fused = write_random(tmp_path / "fused.gguf", broken=scales)
    single = convert(fused, tmp_path / "single.gguf", "defuse").path
    assert weights(single)["blk.0.ffn_up.2.scale"][1] == 2.0
    assert convert(single, tmp_path / "back.gguf", "fuse").path.read_bytes() == fused.read_bytes()


@examples(25)
@given(
    experts=st.integers(2, 9),
    layers=st.integers(1, 3),
    inner=st.sampled_from([1, 3, 32, 33]),
    gate_up=st.booleans(),
    biases=st.booleans(),
)
def test_any_shape_comes_back(
    tmp_path_factory: pytest.TempPathFactory, experts: int, layers: int, inner: int, gate_up: bool, biases: bool
) -> None:
    folder = tmp_path_factory.mktemp("shape")
    shape: dict[str, Any] = {"experts": experts, "layers": layers, "inner": inner, "gate_up": gate_up, "biases": biases}
    fused = write_random(folder / "fused.gguf", width=5, **shape)
    convert(fused, folder / "single.gguf", "defuse")
    assert convert(folder / "single.gguf", folder / "back.gguf", "fuse").path.read_bytes() == fused.read_bytes()


@pytest.mark.parametrize("nameless", [True, False], ids=["without a name", "with a hidden name"])
def test_kill_leaves_nothing_half(nameless: bool, tmp_path: Path) -> None:
    source = write_random(tmp_path / "in.gguf")
    target = tmp_path / "out" / "out.gguf"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(source), str(target), str(int(nameless))], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = [path.name for path in target.parent.iterdir()]
    assert left == ([] if nameless and writing._NAMELESS else [".out.gguf.partial"])
    convert(source, target, "defuse")
    assert [path.name for path in target.parent.iterdir()] == ["out.gguf"]
    assert read_mixture(target).indexed


_KILLED = """
import os, signal, sys
from pathlib import Path
from twd.moe import new_file
from twd.moe.convert import convert
if sys.argv[3] == "0":
    new_file._NAMELESS = 0
def kill(share):
    if share > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
convert(Path(sys.argv[1]), Path(sys.argv[2]), "defuse", progress=kill)
"""


def test_a_small_buffer_and_a_hidden_name_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_random(tmp_path / "in.gguf")
    quick = convert(source, tmp_path / "quick.gguf", "defuse").path
    monkeypatch.setattr(writing, "_NAMELESS", 0)
    monkeypatch.setattr(writing, "_BUFFER_BYTES", 1000)
    assert convert(source, tmp_path / "slow.gguf", "defuse").path.read_bytes() == quick.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_be_done_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    fused = write_random(tmp_path / "fused.gguf")
    there = tmp_path / "there.gguf"
    there.write_text("mine")
    (tmp_path / "link.gguf").symlink_to(fused)
    cases = [
        (fused, tmp_path / "x.gguf", "fuse", "fused already"),
        (fused, fused, "defuse", "is the model itself"),
        (fused, tmp_path / "link.gguf", "defuse", "is the model itself"),
        (fused, there, "defuse", "--force replaces it"),
        (fused, tmp_path, "defuse", "is a folder"),
        (tmp_path / "none.gguf", tmp_path / "x.gguf", "fuse", "no such file"),
        (there, tmp_path / "x.gguf", "fuse", "not a GGUF"),
    ]
    before = sorted(tmp_path.iterdir())
    for source, target, direction, words in cases:
        with pytest.raises(TwdError, match=words):
            convert(source, target, direction)  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before
    assert there.read_text() == "mine"
    assert convert(fused, there, "defuse", replace=True).path.stat().st_size > 100


def test_a_full_disk_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = write_random(tmp_path / "fused.gguf")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10, 5, 5))
    with pytest.raises(TwdError, match=r"no room for out\.gguf: it needs .* MiB, and 0 MiB are free"):
        convert(fused, tmp_path / "out.gguf", "defuse")
    assert not (tmp_path / "out.gguf").exists()


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = write_random(tmp_path / "fused.gguf")

    def full(_: float) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TwdError, match="is full; free some space"):
        convert(fused, tmp_path / "out.gguf", "defuse", progress=full)
    assert [path.name for path in tmp_path.iterdir()] == ["fused.gguf"]


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an expert is missing": ({"blk.1.ffn_up.2.weight": None}, {}, "1 of 4 experts are missing: blk.1.ffn_up.2.weight"),
    "another shape": (
        {"blk.0.ffn_gate.3.weight": np.zeros((32, 32), np.float16)},
        {},
        "must be alike",
    ),
    "another type": ({"blk.0.ffn_gate.3.weight": np.zeros((32, 64), np.float32)}, {}, "F32 .* but expert 0 is F16"),
    "one too many": ({"blk.0.ffn_up.4.weight": np.zeros((32, 64), np.float16)}, {}, "its header counts 4 experts"),
    "an absurd count": ({}, {"claimed": 2**32 - 1}, "at most 4096 is possible"),
    "more than there are": ({}, {"claimed": 4000}, "3996 of 4000 experts are missing"),
    "more used than there are": ({}, {"used": 9}, "9 of 4 experts are used"),
    "none counted": ({}, {"claimed": 0}, "its header counts 0"),
    "a layer too many": ({"blk.7.ffn_up_exps.weight": np.zeros((4, 32, 64), np.float16)}, {}, "counts 2 layers"),
    "both layouts": ({"blk.0.ffn_up_exps.weight": np.zeros((4, 32, 64), np.float16)}, {}, "and single experts"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_contradictory_file_is_refused_with_the_cause(wrong: str, tmp_path: Path) -> None:
    broken, options, words = WRONG[wrong]
    path = write_random(tmp_path / "in.gguf", layout="indexed", broken=broken, **options)
    with pytest.raises(TwdError, match=words):
        convert(path, tmp_path / "out.gguf", "fuse")
    assert [one.name for one in tmp_path.iterdir()] == ["in.gguf"]


def test_a_fused_tensor_with_other_experts_is_refused(tmp_path: Path) -> None:
    path = write_random(tmp_path / "in.gguf", broken={"blk.0.ffn_up_exps.weight": np.zeros((3, 32, 64), np.float16)})
    with pytest.raises(TwdError, match="does not hold 4 experts"):
        convert(path, tmp_path / "out.gguf", "defuse")


def test_a_dense_file_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAMixture, match="is a dense model: it has no experts"):
        convert(tiny_path, tmp_path / "out.gguf", "defuse")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_random(tmp_path / "in.gguf")
    os.truncate(path, path.stat().st_size - 4096)
    with pytest.raises(TwdError, match="cut short"):
        convert(path, tmp_path / "out.gguf", "defuse")


def test_a_file_that_shrinks_meanwhile_ends_in_a_failure(tmp_path: Path) -> None:
    path = write_random(tmp_path / "in.gguf")

    def shrink(_: float) -> None:
        os.truncate(path, 4096)

    with pytest.raises(TwdError, match="became shorter"):
        convert(path, tmp_path / "out.gguf", "defuse", progress=shrink)
    assert [one.name for one in tmp_path.iterdir()] == ["in.gguf"]
