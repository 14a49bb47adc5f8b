"""What `fuse` wrote is what llama.cpp loads: identical experts give the dense model's text."""

from pathlib import Path

import numpy as np
import pytest

from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.moe.census import count_experts
from twd.moe.convert import convert
from twd.moe.profile import overlap
from twd.wire.failures import TwdError


def written(model: LoadedGguf, count: int = 16) -> list[int]:
    tokens = model.vocab.tokenize("The capital of France is", parse_special=False, add_bos=True)
    found: list[int] = []
    with Context(model, ContextSettings(ctx_size=256)) as context:
        at, feed = 0, tokens
        for _ in range(count):
            rows = BatchTokens()
            rows.add(0, at, feed, output_from=len(feed) - 1)
            context.decode(rows)
            at, feed = at + len(feed), [int(np.argmax(context.logits(len(feed) - 1)))]
            found += feed
    return found


def test_fused_experts_say_what_the_dense_model_says(upcycled: Path, q4: LoadedGguf, tmp_path: Path) -> None:
    with pytest.raises(TwdError, match="cannot load"):
        LoadedGguf.load(ModelLoadOptions(upcycled))
    fused = convert(upcycled, tmp_path / "fused.gguf", "fuse").path
    with LoadedGguf.load(ModelLoadOptions(fused)) as model:
        assert written(model) == written(q4)
    left = iter([1.0] * 12)
    counted = count_experts(fused, ["One, two, three"], lambda: next(left, 0.0)).profile()
    assert len(counted.hits) == 30
    assert all(0 <= expert < 8 for counts in counted.hits.values() for expert in counts)
    order = [layer for layer, _ in counted.trace]
    assert order[-60:] == [*range(30)] * 2, "told token by token, as they would be wanted"
    assert all(len(set(chosen)) == 2 for _, chosen in counted.trace)
    assert 0 < (overlap(counted) or 0) < 1
