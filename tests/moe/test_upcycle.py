"""A dense model made a mixture says what the dense model says."""

from pathlib import Path

import numpy as np
import pytest

from tests.engine.tiny_models import VOCABULARY, write_llama, write_mamba
from twd.engine.context import BatchTokens, Context, ContextSettings, Logits
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.moe.model import read_mixture
from twd.moe.summary import summarize
from twd.moe.upcycle import upcycle
from twd.wire.failures import TwdError


def logits(path: Path) -> Logits:
    rows = BatchTokens()
    rows.add(0, 0, [(7 * index) % VOCABULARY for index in range(8)])
    with LoadedGguf.load(ModelLoadOptions(path)) as model, Context(model, ContextSettings(ctx_size=64)) as context:
        context.decode(rows)
        return np.stack([context.logits(row) for row in range(8)])


@pytest.mark.parametrize("used", [1, 2])
def test_the_mixture_says_what_the_dense_model_says(tmp_path: Path, used: int) -> None:
    dense = write_llama(tmp_path / "dense.gguf")
    path = upcycle(dense, tmp_path / "mixture.gguf", experts=3, used=used)
    facts = summarize(read_mixture(path))
    assert (facts.experts, facts.used, facts.layout) == (3, used, "fused")
    assert len(facts.expert_layers) == 2
    said, expected = logits(path), logits(dense)
    if used == 1:
        assert np.array_equal(said, expected)
    rounding = 1e-4 * np.abs(expected).max()  # shares of two equal results add up
    assert np.abs(said - expected).max() < rounding


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TwdError, match="is of architecture mamba; only llama can be upcycled"):
        upcycle(write_mamba(tmp_path / "m.gguf"), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
