"""A head in the written format is what llama.cpp and twd read: it guesses, and the text stays what it is."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from contrib.heads.begin import first_weights
from contrib.heads.head_gguf import write_head
from contrib.heads.save_target import save_target
from contrib.heads.target import read_target
from tests.engine.test_eagle_head import load
from tests.engine.test_own_head import text, write
from tests.engine.tiny_models import write_llama
from twd.gguf_tools.head_file import head_problem
from twd.gguf_tools.header import read_header
from twd.gguf_tools.inspect import inspect
from twd.wire.job import Sampling

LAYERS = [0, 1, 1]
ASKED = [7 * token % 60 + 3 for token in range(40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("heads") / "model.gguf")


def begun(model: Path, folder: Path) -> tuple[Any, dict[str, Any], Any]:
    """A head that has learned nothing yet."""
    save_target(model, LAYERS, [2], folder / "target.npz")
    facts, target = read_target(folder / "target.npz")
    whole, width = target["embedding"].shape
    vocabulary = np.arange(0, whole, 2)
    rows = np.random.default_rng(1).normal(size=(50, 3 * width)).astype(np.float16)
    return facts, first_weights(target, rows, facts["heads"], vocabulary), vocabulary


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_it_is_read_back(model: Path, tmp_path: Path, kind: str) -> None:
    facts, weights, vocabulary = begun(model, tmp_path)
    path = tmp_path / "head.gguf"
    write_head(path, model, weights, vocabulary, facts, kind)
    header = read_header(path)
    assert head_problem(header, inspect(model)) == ""
    assert header.array("eagle3.target_layers") == LAYERS
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}
    assert tensors["d2t"].data.tolist() == vocabulary.tolist()
    found = gguf.quants.dequantize(tensors["blk.0.ffn_down.weight"].data, tensors["blk.0.ffn_down.weight"].tensor_type)
    assert np.abs(found - weights["ffn_down"].T).max() <= np.abs(weights["ffn_down"]).max() / 100


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.9, seed=7)], ids=["greedy", "sampled"])
def test_it_guesses_and_changes_no_word(model: Path, tmp_path: Path, sampling: Sampling) -> None:
    facts, weights, vocabulary = begun(model, tmp_path)
    write_head(tmp_path / "head.gguf", model, weights, vocabulary, facts, "q8_0")
    headed, plain = load(model, tmp_path / "head.gguf"), load(model)
    try:
        guessed = write(headed, sampling, 3, ASKED)
        assert all(len(one.guesses) == 3 for one in guessed)
        assert {token for one in guessed for token in one.guesses} <= set(vocabulary.tolist())
        assert text(guessed) == text(write(plain, sampling, 0, ASKED))
    finally:
        headed.close()
        plain.close()
