"""Stages that read their own experts give the logits of the whole model, each in less memory than its slice has."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from tests.engine.experts.unlike import VOCABULARY, write_unlike
from tests.engine.stage_chain import Chain, windows_of
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import can_stream

pytestmark = pytest.mark.skipif(not can_stream(), reason="this build of llama.cpp has no cache of experts")
TEXT = [(11 * index * index + 1) % VOCABULARY for index in range(24)]
WIDTHS = (7, 1, 1, 4, 1, 8)
PLAN = {"ctx_size": 128, "parallel": 1, "threads": 2}


@pytest.mark.parametrize("cuts", [(2,), (1, 2, 3)], ids=["two", "four"])
def test_a_chain_of_stages_each_with_memory_for_one_layer(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    path = write_unlike(tmp_path / "unlike.gguf")
    layout = expert_layout(path)
    assert layout is not None
    with Chain(path, (), tmp_path, **PLAN) as whole:
        expected = windows_of(whole, TEXT, WIDTHS)
    experts = layout.layer_bytes(mmap.PAGESIZE)
    with Chain(path, cuts, tmp_path, **PLAN, expert_bytes=experts) as chain:
        assert np.array_equal(windows_of(chain, TEXT, WIDTHS), expected)
        chain.clear()
        again = windows_of(chain, TEXT, WIDTHS, wrong=3)
        assert np.array_equal(again, expected), "with wrong windows before each, taken back"
        for stage in chain.stages:
            assert stage.model.experts is not None
            assert stage.model.experts.numbers().held_bytes <= experts
