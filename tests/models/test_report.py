"""What a model is, told from its header."""

from pathlib import Path

import pytest

from tests.engine.tiny_models import write_mamba
from tests.moe.mixtures import write_random
from twd.gguf_tools.header import read_header
from twd.gguf_tools.inspect import inspect
from twd.models.report import ModelReport, report_of


def told(path: Path) -> ModelReport:
    info = inspect(path)
    return report_of(info, [read_header(shard) for shard in info.shards])


def test_types_and_roles_add_up_to_the_model(tiny_path: Path) -> None:
    info, report = inspect(tiny_path), told(tiny_path)
    assert sum(one.size_bytes for one in report.types) == info.weight_bytes
    assert sum(one.size_bytes for one in report.tensors) == info.weight_bytes
    assert sum(one.tensors for one in report.tensors) == len(info.tensors)
    assert sum(one.parameters for one in report.types) == info.parameters
    roles = {one.name: one.tensors for one in report.tensors}
    assert roles["blk.*.attn_q.weight"] == report.layers == 2
    assert roles["token_embd.weight"] == 1
    assert report.experts is None
    assert report.cut.possible


def test_a_model_that_cannot_be_cut_says_why(tmp_path: Path) -> None:
    path = write_mamba(tmp_path / "dream.gguf")
    path.write_bytes(path.read_bytes().replace(b"mamba", b"dream"))
    report = told(path)
    assert not report.cut.possible
    assert "pool.engine: rpc" in report.cut.why_not


@pytest.mark.parametrize("layout", ["fused", "indexed"])
def test_the_experts_of_a_mixture(tmp_path: Path, layout: str) -> None:
    report = told(write_random(tmp_path / "m.gguf", layout=layout, shared=True))
    assert report.experts is not None
    assert (report.experts.experts, report.experts.used, report.experts.layout) == (4, 2, layout)
    assert report.experts.shared
    assert 0 < report.experts.size_bytes < report.size_bytes
    assert "blk.*.ffn_up_exps.weight" in {one.name for one in report.tensors} or layout == "indexed"
    assert len(report.tensors) < 20


def test_shards_are_one_model(tmp_path: Path) -> None:
    report = told(write_random(tmp_path / "m.gguf", shards=3))
    whole = told(write_random(tmp_path / "whole.gguf"))
    assert report.files == 3
    assert report.parameters == whole.parameters
