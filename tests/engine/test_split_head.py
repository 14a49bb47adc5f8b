"""The layers of a model's own head in a file of their own."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.slices.recipes import Recipe, recipe
from tests.engine.test_eagle_head import load
from tests.engine.test_own_head import COUNT, SAMPLINGS, all_knowing, text, write
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import load_native
from twd.gguf_tools.inspect import inspect
from twd.wire.base import ModelId
from twd.wire.failures import TwdError
from twd.wire.job import Sampling


def parts(name: str) -> tuple[Recipe, Recipe]:
    """The model without its head, and the head without the model."""
    one = recipe(name)
    first = f"blk.{one.layers - one.fields['nextn_predict_layers'][1]}."
    least = int(first.split(".")[1])

    def behind(tensor: str) -> bool:
        return tensor.startswith("blk.") and int(tensor.split(".")[1]) >= least

    model = {tensor: shape for tensor, shape in one.tensors.items() if not behind(tensor)}
    head = {tensor: shape for tensor, shape in one.tensors.items() if behind(tensor) or not tensor.startswith("blk.")}
    return replace(one, tensors=model), replace(one, tensors=head)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_its_guesses_change_no_word(sampling: Sampling, tmp_path: Path) -> None:
    """The model's file tells of its head, but does not hold it."""
    model, head = parts("hy_v3 with a head")
    path = model.write(tmp_path / "model.gguf")
    plain = load(path)
    truth = text(write(plain, sampling))
    plain.close()
    loaded = load(path, head.write(tmp_path / "head.gguf"))
    try:
        assert text(write(loaded, sampling, 3)) == truth
        assert "the head head.gguf guesses, " in loaded.facts.note
    finally:
        loaded.close()


def test_one_that_knows_is_right(tmp_path: Path) -> None:
    _, head = parts("qwen35 with a head")
    path = recipe("qwen35").write(tmp_path / "model.gguf", change=all_knowing)
    loaded = load(path, head.write(tmp_path / "head.gguf", change=all_knowing))
    try:
        guessed = write(loaded, Sampling(), 3)
        assert len(guessed) <= COUNT / 4 + 2
        assert text(guessed) == text(write(loaded, Sampling()))
    finally:
        loaded.close()


def test_several(tmp_path: Path) -> None:
    _, heads = parts("mimo2 with three heads")
    path = recipe("mimo2").write(tmp_path / "model.gguf")
    loaded = load(path, heads.write(tmp_path / "heads.gguf"))
    try:
        guessed = write(loaded, Sampling(), 8)
        assert all(len(one.guesses) == 3 for one in guessed)
        assert text(guessed) == text(write(loaded, Sampling()))
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("llama", {}, "of another model: that is of architecture qwen35, this one of llama"),
        (
            "qwen35",
            {"block_count": ("UINT32", 10), "nextn_predict_layers": ("UINT32", 2)},
            "computes one head of qwen35",
        ),
        ("qwen35", {"block_count": ("UINT32", 12)}, "that has 11 layers and a width of 64, this one 8 and 64"),
    ],
)
def test_a_foreign_one_is_left_aside(
    name: str, fields: dict[str, tuple[str, int]], reason: str, tmp_path: Path
) -> None:
    _, head = parts("qwen35 with a head")
    path = recipe(name).write(tmp_path / "model.gguf")
    loaded = load(path, replace(head, fields=head.fields | fields).write(tmp_path / "head.gguf"))
    assert loaded.target.head is None
    assert reason in loaded.facts.note
    loaded.close()


def test_more_layers_than_tensors(tmp_path: Path) -> None:
    """A file that names its last layer alone tells of as many as it names."""
    _, head = parts("qwen35 with a head")
    tensors = {name.replace("blk.8.", "blk.80."): shape for name, shape in head.tensors.items()}
    far = replace(head, fields=head.fields | {"block_count": ("UINT32", 81)}, tensors=tensors)
    info = inspect(far.write(tmp_path / "head.gguf"))
    assert (info.layers, info.head_layers) == (80, 1)
    assert len(info.tensors) < info.layers


def test_it_is_no_model(tmp_path: Path) -> None:
    _, head = parts("qwen35 with a head")
    with pytest.raises(TwdError, match="holds a head for another model"):
        load(head.write(tmp_path / "head.gguf"))


def test_where_the_named_one_does_not_fit_the_models_own_guesses(tmp_path: Path) -> None:
    path = recipe("qwen35 with a head").write(tmp_path / "model.gguf")
    foreign = recipe("llama").write(tmp_path / "llama.gguf")
    plan = LoadPlan(ModelId("m"), path, ctx_size=512, parallel=2, threads=1, test=False, head=True, head_file=foreign)
    loaded = load_native(plan, lambda share, stage: None)
    try:
        assert "its own head guesses, " in loaded.facts.note
        assert "the named one does not: llama.gguf is a file of architecture llama" in loaded.facts.note
        assert all(len(one.guesses) == 2 for one in write(loaded, Sampling(), 2))
    finally:
        loaded.close()
