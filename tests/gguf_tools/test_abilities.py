"""What is told of each architecture is what was tried, and what the program does."""

from pathlib import Path

import pytest

from contrib.architectures.page import page
from contrib.architectures.trial import try_one
from tests.engine.slices.recipes import names, recipe
from twd.gguf_tools.abilities import Undoing, abilities_of
from twd.gguf_tools.header import read_header
from twd.gguf_tools.slice_table import RULES
from twd.gguf_tools.tried import TRIED

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"dream", "jamba", "lfm2", "llama"}


def test_the_page_tells_what_the_tables_hold() -> None:
    """If this fails: `python -m contrib.architectures.try_all --new`."""
    assert (ROOT / "docs/models.md").read_text("utf-8") == page()


def test_every_architecture_with_a_recipe_was_tried() -> None:
    assert {recipe(name).architecture for name in names()} == set(TRIED)
    assert set(RULES) <= set(TRIED)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in sorted(TRIED)]
)
def test_it_still_is_so(name: str) -> None:
    assert try_one(name) == TRIED[name]


def test_one_file_is_told_of(tmp_path: Path) -> None:
    header = read_header(recipe("qwen35 with a head").write(tmp_path / "model.gguf"))
    found = abilities_of(header)
    assert found.tried is not None
    assert found.tried.undoing is Undoing.SNAPSHOTS
    assert (found.head_layers, found.ring) == (1, "")
    told = dict(found.lines())
    assert told["exact"] == told["ring"] == "yes"
    assert "1 layer" in told["own head"]


def test_what_was_not_tried_is_found_out_when_it_is_loaded(tmp_path: Path) -> None:
    one = recipe("minicpm3")
    header = read_header(one.write(tmp_path / "model.gguf"))
    told = dict(abilities_of(header).lines())
    assert told["ring"].startswith("no: its architecture is minicpm3: llama.cpp scales each layer")
    header.metadata["general.architecture"] = "unheard-of"
    assert dict(abilities_of(header).lines())["going back"] == "found out when it is loaded"
