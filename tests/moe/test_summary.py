"""What a mixture weighs."""

from pathlib import Path

import pytest

from tests.moe.mixtures import write_random
from twd.moe.model import read_mixture
from twd.moe.summary import ranges, summarize

EXPERT = 3 * 32 * 64 * 2
ROUTER = 4 * 64 * 4 + 4 * 4
EMBEDDING = 48 * 64 * 4


@pytest.mark.parametrize("layout", ["fused", "indexed"])
def test_bytes_by_layer(layout: str, tmp_path: Path) -> None:
    facts = summarize(read_mixture(write_random(tmp_path / "m.gguf", layout=layout, shared=True)))
    assert facts.layout == layout
    assert (facts.experts, facts.used, facts.shared_experts, facts.gate_up, facts.biases) == (4, 2, True, False, False)
    for layer in facts.layers:
        assert (layer.dense, layer.shared, layer.expert) == (64 * 4 + ROUTER, 32 * 64 * 4, 4 * EXPERT)
    assert facts.outside == 2 * EMBEDDING + 64 * 4
    assert facts.token_reads == facts.dense + facts.shared - EMBEDDING + 2 * 2 * EXPERT
    assert facts.least_memory == facts.dense + facts.shared + 2 * EXPERT
    assert [(first, last) for first, last, _ in ranges(facts.layers)] == [(0, 1)]


def test_the_embedding_counts_where_it_is_the_output_matrix(tmp_path: Path) -> None:
    facts = summarize(read_mixture(write_random(tmp_path / "m.gguf", output=False, gate_up=True, biases=True)))
    assert facts.looked_up == 0
    assert facts.gate_up
    assert facts.biases
