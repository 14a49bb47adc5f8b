"""Every architecture in the table of slices: the whole model against chains with awkward cuts, bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine.sliceable_models import SHAPES, VARIANTS, write_sliceable
from tests.engine.slices.recipes import names, recipe
from tests.engine.stage_chain import Chain, windows_of
from tests.engine.tiny_transformer import LAYERS, VOCABULARY
from twd.engine.slices.states import LayerInput
from twd.gguf_tools import slice_layout
from twd.gguf_tools.slice_table import RULES

CUTS = {
    "one and the rest": (1,),
    "off every pattern": (3, 5),
    "every layer": tuple(range(1, LAYERS)),
    "all but one, and the head alone": (LAYERS - 1, LAYERS),
}
WIDTHS = (24, 2, 8, 3, 16, 2)
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, VOCABULARY, sum(WIDTHS))]
SIZE = {"ctx_size": 128, "parallel": 1, "threads": 1}


def test_every_architecture_of_the_table_is_proven() -> None:
    """Here, or in `slices/test_recipes.py`."""
    assert set(SHAPES) | {recipe(name).architecture for name in names()} >= set(RULES)
    assert set(SHAPES) <= set(RULES)


def allowed(architecture: str) -> dict[str, tuple[int, ...]]:
    """The cuts that this architecture bears; in its place, one that it does where it bears none of a kind."""
    multiple = RULES[VARIANTS[architecture][0] if architecture in VARIANTS else architecture].first_multiple
    if multiple == 1:
        return CUTS
    return {"where it can be": tuple(range(multiple, LAYERS, multiple)), "the head alone": (multiple, LAYERS)}


QUICK = ("gemma3", "gpt-oss", "llama", "qwen3moe")
"""One of each kind."""


@pytest.mark.parametrize(
    "architecture",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough)
        for name in (*sorted(SHAPES), *VARIANTS)
    ],
)
def test_chains_give_the_whole_models_logits(architecture: str, tmp_path: Path) -> None:
    path = write_sliceable(architecture, tmp_path)
    with Chain(path, (), tmp_path, **SIZE) as chain:
        whole = windows_of(chain, TOKENS, WIDTHS)
    assert np.isfinite(whole).all()
    assert len({int(row.argmax()) for row in whole}) > 10
    for name, cuts in allowed(architecture).items():
        with Chain(path, cuts, tmp_path, **SIZE) as chain:
            difference = np.abs(whole - windows_of(chain, TOKENS, WIDTHS, wrong=7)).max()
        assert difference == 0, f"{architecture}, cut into {name}: logits differ by up to {difference}"


@pytest.mark.parametrize(
    ("architecture", "without"),
    [
        ("gpt-oss", {"window_period": 0}),
        ("gemma2", {"window_period": 0}),
        ("gemma3", {"window_period": 0}),
        ("gemma", {"restored": ""}),
        ("gemma2", {"restored": ""}),
    ],
)
def test_without_its_rule_an_architecture_goes_wrong(
    architecture: str, without: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sliceable(architecture, tmp_path)
    with Chain(path, (), tmp_path, **SIZE) as chain:
        whole = windows_of(chain, TOKENS, WIDTHS)
    monkeypatch.setitem(RULES, architecture, replace(RULES[architecture], **without))  # type: ignore[arg-type]
    with Chain(path, (3, 5), tmp_path, **SIZE) as chain:
        assert np.abs(whole - windows_of(chain, TOKENS, WIDTHS)).max() > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gpt-oss"])
@pytest.mark.parametrize("tail", [True, False], ids=["behind zeros", "without"])
def test_states_can_be_caught_where_llama_cpp_does_not_hand_them_out(
    architecture: str, tail: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sliceable(architecture, tmp_path)
    with Chain(path, (), tmp_path, **SIZE) as chain:
        whole = windows_of(chain, TOKENS, WIDTHS)
    monkeypatch.setattr(LayerInput, "available", lambda: False)
    if not tail:
        monkeypatch.setattr(slice_layout, "_SMALL_LAYER_BYTES", 0)
    with Chain(path, (3, 5), tmp_path, **SIZE) as chain:
        assert chain.stages[0].facts.tail == tail
        assert np.array_equal(whole, windows_of(chain, TOKENS, WIDTHS, wrong=7))
