"""Several heads in one file: each guesses one token, and the text stays what it is."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.engine.slices.recipes import Weights, recipe
from tests.engine.test_own_head import COUNT, SAMPLINGS, load, text, write
from twd.gguf_tools.head_file import own_head_problem
from twd.gguf_tools.inspect import inspect
from twd.wire.job import Sampling

CHAINS = {"hy_v3 with two heads": 2, "mimo2 with three heads": 3}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", CHAINS)
def test_their_guesses_change_no_word(name: str, sampling: Sampling, tmp_path: Path) -> None:
    path = recipe(name).write(tmp_path / "model.gguf")
    loaded, plain = load(path), load(path, with_head=False)
    try:
        guessed = write(loaded, sampling, 8)
        assert all(len(one.guesses) == len(one.sure) == CHAINS[name] for one in guessed)
        assert text(guessed) == text(write(plain, sampling))
        assert "its own heads, one for each token ahead, guesses, " in loaded.facts.note
    finally:
        loaded.close()
        plain.close()


def knowing(name: str, values: Weights, *, errs: str) -> Weights:
    """Weights with which the target looks at its last token alone, and so does each head but one."""
    if name.startswith(errs) and name.endswith("nextn.eh_proj.weight"):
        return -np.eye(*values.shape, dtype=np.float32)
    if name.endswith("nextn.eh_proj.weight"):
        return np.eye(*values.shape, dtype=np.float32)
    if name.endswith("attn_output.weight") or "ffn_down" in name:
        return np.zeros_like(values)
    return np.ones_like(values) if "norm" in name else values


@pytest.mark.parametrize(("errs", "kept"), [("none", 4), ("blk.10", 3), ("blk.9", 2), ("blk.8", 1)])
def test_each_guesses_the_token_of_its_own_place(errs: str, kept: int, tmp_path: Path) -> None:
    path = recipe("mimo2 with three heads").write(tmp_path / "model.gguf", change=partial(knowing, errs=errs))
    loaded = load(path)
    try:
        guessed = write(loaded, Sampling(), 3)
        assert len(set(text(guessed))) > 3
        assert {len(one.tokens) for one in guessed[1:]} == {kept}
        assert text(guessed) == text(write(loaded, Sampling()))[:COUNT]
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("architecture", "count", "without", "reason"),
    [
        ("qwen35", 2, "", "llama.cpp computes one head of qwen35 models, and this file has 2"),
        ("qwen35", 1, "nextn.eh_proj.weight", "the file tells of a head, but holds none"),
        ("mimo2", 1, "attn_qkv.weight", "only with one matrix for Q, K and V"),
    ],
)
def test_a_head_that_would_end_the_process_is_left_aside(
    architecture: str, count: int, without: str, reason: str, tmp_path: Path
) -> None:
    one = recipe(f"{architecture} with a head")
    layers = one.layers + count - 1
    made = type(one)(
        one.architecture,
        one.fields | {"block_count": ("UINT32", layers), "nextn_predict_layers": ("UINT32", count)},
        {
            name.replace("blk.8.", f"blk.{layer}.", 1): shape
            for layer in range(8, layers)
            for name, shape in one.tensors.items()
            if not without or not name.endswith(f"blk.8.{without}")
        },
    )
    assert reason in own_head_problem(inspect(made.write(tmp_path / "model.gguf")))
