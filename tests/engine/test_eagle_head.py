"""A trained head in a file of its own guesses, changes no word, and is refused where it does not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine.slices.recipes import Weights, recipe
from tests.engine.test_own_head import COUNT, SAMPLINGS, text, write
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.wire.base import ModelId
from twd.wire.failures import TwdError
from twd.wire.job import Sampling


def load(path: Path, head: Path | None = None, parallel: int = 2) -> NativeModel:
    plan = LoadPlan(ModelId("m"), path, ctx_size=512, parallel=parallel, threads=1, test=False, head_file=head)
    return load_native(plan, lambda share, stage: None)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize(("name", "asked", "given"), [("eagle3", 3, 3), ("dflash", 8, 5)])
def test_its_guesses_change_no_word(name: str, asked: int, given: int, sampling: Sampling, tmp_path: Path) -> None:
    """A block has only so many guesses."""
    path = recipe("llama").write(tmp_path / "model.gguf")
    headed, plain = load(path, recipe(name).write(tmp_path / "head.gguf")), load(path)
    try:
        guessed = write(headed, sampling, asked)
        assert all(len(one.guesses) == len(one.sure) == given for one in guessed)
        assert text(guessed) == text(write(plain, sampling))
        assert "the head head.gguf guesses, " in headed.facts.note
    finally:
        headed.close()
        plain.close()


def last_token_alone(name: str, values: Weights) -> Weights:
    """Weights with which the target looks at its last token alone."""
    if name.endswith(("attn_output.weight", "ffn_down.weight", "bias")):
        return np.zeros_like(values)
    return np.ones_like(values) if "norm" in name else values


def all_knowing(name: str, values: Weights) -> Weights:
    """Weights with which the head attends to its own token only, and hands on its embedding."""
    if name.endswith(("ffn_down.weight", "fc.weight", "attn_norm_2.weight")):
        return np.zeros_like(values)
    if name.endswith(("attn_q.weight", "attn_k.weight")):
        return 10 * np.eye(*values.shape, dtype=np.float32)
    if name.endswith(("attn_v.weight", "attn_output.weight")):
        return np.eye(*values.shape, dtype=np.float32)
    return np.ones_like(values) if "norm" in name else values


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_a_head_that_knows_is_right(sampling: Sampling, tmp_path: Path) -> None:
    """It has no embedding and no output matrix of its own: those of the target serve."""
    path = recipe("llama").write(tmp_path / "model.gguf", change=last_token_alone)
    one = recipe("eagle3")
    shared = replace(
        one,
        fields=one.fields | {"norm_before_residual": ("BOOL", True)},
        tensors={name: shape for name, shape in one.tensors.items() if name != "output.weight"},
    )
    loaded = load(path, shared.write(tmp_path / "head.gguf", change=all_knowing))
    try:
        guessed = write(loaded, sampling, 3)
        assert len(guessed) <= COUNT / 4 + 4
        assert text(guessed) == text(write(loaded, sampling))
        assert len(set(text(guessed))) > 3
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"target_hidden_size": ("UINT32", 128)}, "a head of another model: that has a width of 128, this one of 64"),
        ({"target_layers": ("INT32", [1, 4, 90])}, "it reads layers [1, 4, 90], and this one has 8"),
    ],
)
def test_a_head_of_another_model_is_left_aside(
    fields: dict[str, tuple[str, object]], reason: str, tmp_path: Path
) -> None:
    path, one = recipe("llama").write(tmp_path / "model.gguf"), recipe("eagle3")
    head = replace(one, fields=one.fields | fields).write(tmp_path / "head.gguf")
    loaded = load(path, head)
    try:
        assert loaded.target.head is None
        assert reason in loaded.facts.note
        assert len(text(write(loaded, Sampling(), 3))) == COUNT
    finally:
        loaded.close()


def test_what_is_no_head_is_left_aside(tmp_path: Path) -> None:
    path = recipe("llama").write(tmp_path / "model.gguf")
    loaded = load(path, path)
    assert "without a head: model.gguf is a file of architecture llama, not of a trained head" in loaded.facts.note
    loaded.close()


def test_a_truncated_head_is_left_aside(tmp_path: Path) -> None:
    path = recipe("llama").write(tmp_path / "model.gguf")
    head = recipe("eagle3").write(tmp_path / "head.gguf")
    head.write_bytes(head.read_bytes()[:-4096])
    loaded = load(path, head)
    assert "without a head: " in loaded.facts.note
    assert loaded.target.head is None
    loaded.close()


def test_a_model_whose_layers_tell_nothing_is_served_without(tmp_path: Path) -> None:
    path = recipe("qwen2").write(tmp_path / "model.gguf")
    loaded = load(path, recipe("eagle3").write(tmp_path / "head.gguf"))
    assert "without a head: llama.cpp gives out no layer inputs of qwen2 models" in loaded.facts.note
    loaded.close()


def test_a_heads_file_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(TwdError, match=r"holds a head for another model; name it as `drafters"):
        load(recipe("eagle3").write(tmp_path / "head.gguf"))
