"""Every architecture in the table of slices that llama.cpp's own generator of test models knows.

The whole model is compared with chains with awkward cuts, bit for bit. Before each window wrong tokens are rolled back.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.engine.slices.recipes import VOCABULARY, Recipe, names, recipe
from tests.engine.stage_chain import Chain, windows_of
from twd.engine.slices.undo import REACH
from twd.gguf_tools.header import read_header
from twd.gguf_tools.slice import read_cuts
from twd.gguf_tools.slice_rules import CutPoints, can_slice
from twd.gguf_tools.slice_table import RULES, UNCUT
from twd.wire.failures import TwdError

WIDTHS = (24, 2, 8, 3, 16, 2)
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, VOCABULARY, sum(WIDTHS))]
SIZE = {"ctx_size": 512, "parallel": 1, "threads": 1}
SLICED = [name for name in names() if recipe(name).architecture in RULES and name != "kimi-k3"]
QUICK = {
    *("deepseek4", "gemma4", "gpt2", "jamba", "kimi-linear", "lfm2moe", "llama4", "minicpm by its depth", "qwen35"),
}
"""One of each kind."""


def cuts_for(points: CutPoints) -> dict[str, tuple[int, ...]]:
    """Awkward cuts that this model bears."""
    last = points.layers - 1 if points.last_begin is None else points.last_begin
    able = [at for at in range(1, last + 1) if not points.refusal(at, 1)]
    near = {wanted: min(able, key=lambda at: abs(at - wanted)) for wanted in (1, 3, 5, points.layers // 2, last)}
    found = {
        "one and the rest": (near[1],),
        "off every pattern": tuple(sorted({near[3], near[5]})),
        "halves": (near[points.layers // 2],),
        "everywhere": tuple(able),
    }
    if points.last_begin is None:
        found["the head alone"] = (near[last], points.layers)
    return {name: cuts for name, cuts in found.items() if bears(points, cuts)}


def bears(points: CutPoints, cuts: tuple[int, ...]) -> bool:
    borders = (0, *cuts, points.layers)
    return not any(points.why_not(first, end) for first, end in pairwise(borders) if first < end)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in SLICED]
)
def test_chains_give_the_whole_models_logits(name: str, tmp_path: Path) -> None:
    path = recipe(name).write(tmp_path / "model.gguf")
    with Chain(path, (), tmp_path, **SIZE) as chain:
        whole = windows_of(chain, TOKENS, WIDTHS)
    assert np.isfinite(whole).all()
    assert len({int(row.argmax()) for row in whole}) > 10
    cuts_of_it = cuts_for(read_cuts(path))
    assert cuts_of_it
    for kind, cuts in cuts_of_it.items():
        with Chain(path, cuts, tmp_path, **SIZE) as chain:
            difference = np.abs(whole - windows_of(chain, TOKENS, WIDTHS, wrong=7)).max()
        assert difference == 0, f"{name}, cut {kind}: logits differ by up to {difference}"


@pytest.mark.parametrize("name", ["qwen35", "jamba", "mamba2", "plamo2", "deepseek4"])
def test_a_stage_goes_back_far_behind_its_last_pass(name: str, tmp_path: Path) -> None:
    """As it must when several windows of one session were in flight and the first of them was wrong."""
    path = recipe(name).write(tmp_path / "model.gguf")
    text = (TOKENS * 8)[: REACH + 40]
    with Chain(path, (), tmp_path, **SIZE) as chain:
        plain = windows_of(chain, text + TOKENS[:4], (*[8] * (len(text) // 8), 4))
    with Chain(path, cuts_for(read_cuts(path))["off every pattern"], tmp_path, **SIZE) as chain:
        windows_of(chain, text, [8] * (len(text) // 8))
        for back in (1, 3, 60, REACH):
            chain.rollback(0, len(text) - back)
            again = windows_of_at(chain, text, len(text) - back)
            assert np.array_equal(again, plain[len(text) - back : len(text)])


def windows_of_at(chain: Chain, text: list[int], start: int) -> np.ndarray:
    """The logits of the text from `start` on, in windows of five."""
    return np.concatenate([chain.run(at, text[at : min(at + 5, len(text))]) for at in range(start, len(text), 5)])


def test_a_slot_that_went_back_too_far_is_empty(tmp_path: Path) -> None:
    path = recipe("qwen35").write(tmp_path / "model.gguf")
    with Chain(path, (), tmp_path, **SIZE) as chain:
        stage, text = chain.stages[0], TOKENS * 8
        first = windows_of(chain, text, [40] * 10)[:40]
        assert stage.undoable == REACH
        assert not stage.rollback(0, 20)
        assert stage.end(0) == 0
        assert np.array_equal(chain.run(0, text[:40]), first)


def test_no_architecture_is_in_both_tables() -> None:
    assert not set(RULES) & set(UNCUT)


@pytest.mark.parametrize("name", [name for name in names() if recipe(name).architecture in UNCUT])
def test_the_others_are_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    one = recipe(name)
    path = one.write(tmp_path / "model.gguf")
    assert UNCUT[one.architecture] in can_slice(read_header(path))
    with pytest.raises(TwdError, match="cannot be sliced: its architecture is"):
        read_cuts(path)


def test_a_model_whose_layers_look_back_at_earlier_ones_is_refused(tmp_path: Path) -> None:
    path = recipe("kimi-k3").write(tmp_path / "model.gguf")
    with pytest.raises(TwdError, match=r"kimi-k3\.attn_res\.block_size"):
        read_cuts(path)


def test_the_heads_layers_are_no_layers_of_a_slice(tmp_path: Path) -> None:
    plain = recipe("qwen35")
    fields = plain.fields | {"nextn_predict_layers": ("UINT32", 1), "block_count": ("UINT32", plain.layers + 1)}
    head = {name.replace("blk.2.", "blk.8."): shape for name, shape in plain.tensors.items() if ".2." in name}
    extra = {
        "blk.8.nextn.eh_proj.weight": (64, 128),
        "blk.8.nextn.enorm.weight": (64,),
        "blk.8.nextn.hnorm.weight": (64,),
    }
    path = Recipe("qwen35", fields, plain.tensors | head | extra).write(tmp_path / "model.gguf")
    assert read_cuts(path).layers == plain.layers
    with Chain(path, (), tmp_path, **SIZE) as chain:
        whole = windows_of(chain, TOKENS, WIDTHS)
    with Chain(path, (3, 5), tmp_path, **SIZE) as chain:
        assert np.array_equal(whole, windows_of(chain, TOKENS, WIDTHS, wrong=7))
